"""Readers: one file a format. Each is given an open file and gives documents and rejects, in their order."""
