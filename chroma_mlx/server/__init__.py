"""One process holds the model for many: HTTP and gRPC (the extra `server`)."""
