"""Models in a Hub's cache of a test's own, without a Hub."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from chroma_mlx.checkpoint.cache import MARK
from chroma_mlx.checkpoint.listing import ListedFile, Listing, write_listing


def put_into_cache(
    cache: Path, repo_id: str, checkpoint: Path, *, used: float | None = None, listed: bool = True, ours: bool = True
) -> Path:
    """Copies a checkpoint into `cache` as the Hub's client lays it out; returns its snapshot.

    `listed`: it is noted to be whole; `ours`: and to be fetched by this program.
    """
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    commit = hashlib.sha1(repo_id.encode()).hexdigest()  # no two repositories have the same
    snapshot = repository / "snapshots" / commit
    files = []
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        digest = hashlib.sha256(content) if large else hashlib.sha1(f"blob {len(content)}\0".encode() + content)
        blob = repository / "blobs" / digest.hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(checkpoint)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        name, sha256 = file.relative_to(checkpoint).as_posix(), digest.hexdigest() if large else None
        files.append(ListedFile(name, len(content), sha256, None if large else digest.hexdigest()))
    if listed:
        write_listing(snapshot, Listing(tuple(files), fetched=ours))
    if used is not None:
        (repository / MARK).touch()
        os.utime(repository / MARK, (used, used))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    return snapshot
