"""The architectures, one a file, and the table of known models."""
