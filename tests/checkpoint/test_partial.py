"""Files of a download that is not complete belong to one writer at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from chroma_mlx.checkpoint import partial
from chroma_mlx.checkpoint.partial import IDLE_S, SUFFIX, claimed, is_written, partials

SHA: Final = "c" * 64


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    return tmp_path / SHA


def test_two_writers_never_have_one_file(blob: Path) -> None:
    """As where the locks of the file system hold nobody back."""
    with claimed(blob) as first:
        first.write_bytes(b"of the first")
        with claimed(blob) as second:
            assert second != first
            assert not second.exists(), "the second took what the first is writing"
            second.write_bytes(b"of")
    assert [file.read_bytes() for file in partials(blob)] == [b"of the first"], "the longer is what is kept"


def test_what_could_not_be_completed_is_there_for_the_next(blob: Path) -> None:
    def fail() -> None:
        with claimed(blob) as file:
            file.write_bytes(b"half")
            raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        fail()
    assert partials(blob) == [blob.with_name(f"{SHA}{SUFFIX}")]
    with claimed(blob) as file:
        assert file.read_bytes() == b"half"
        file.replace(blob)
    assert partials(blob) == []
    assert blob.read_bytes() == b"half"


def test_the_file_of_a_process_that_is_gone_is_taken_over(blob: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from chroma_mlx.checkpoint.partial import claimed\n"
        f"with claimed(Path({str(blob)!r})) as file: file.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = partials(blob)
    assert left.name != f"{SHA}{SUFFIX}"
    with claimed(blob) as file:
        assert file.read_bytes() == b"half"


def test_the_file_of_another_machine_is_taken_over_when_it_has_not_changed_for_long(
    blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(partial, "_machine", lambda: "0badcafe")
        theirs = claimed(blob)
        file = theirs.__enter__()
    file.write_bytes(b"half")
    changed = file.stat().st_mtime
    assert is_written(file, clock=lambda: changed + IDLE_S - 1)
    with claimed(blob, clock=lambda: changed + IDLE_S - 1) as ours:
        assert not ours.exists()
    with claimed(blob, clock=lambda: changed + IDLE_S + 1) as ours:
        assert ours.read_bytes() == b"half"
    assert os.listdir(blob.parent) == [f"{SHA}{SUFFIX}"]
