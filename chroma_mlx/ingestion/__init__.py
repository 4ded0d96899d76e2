"""Ingest: files and records into a collection, so that running it again does only what has changed."""

from .calling import ingest
from .migrating import migrate
from .report import IngestResult

__all__ = ["IngestResult", "ingest", "migrate"]
