"""Whole collections: looked at, asked, moved between machines as Parquet, and drawn as a map."""
