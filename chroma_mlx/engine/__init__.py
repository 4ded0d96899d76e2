"""Text in, vectors out: tokenise, plan batches, run them on the MLX thread, pool, normalise."""
