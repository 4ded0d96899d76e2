"""Every error of the package, in one tree (the demo adds EmptyCorpus to it).

    ChromaMLXError
    ├── ConfigError            an argument or a saved configuration is not allowed      (ValueError)
    ├── InputError             a text cannot be embedded; nothing is returned          (ValueError)
    │   ├── TextTooLong        a text is longer than the limit under on_long_text="error"
    │   ├── VectorsOnly        text without a vector, where vectors are made elsewhere
    │   └── RecordError        records of a call are not valid; nothing is written
    ├── DimensionMismatch      vectors of another width than the collection's          (ValueError)
    ├── CollectionMismatch     a collection was made with other settings               (ValueError)
    ├── PartialWrite           the database failed after part of a call was written    (RuntimeError)
    ├── DatabaseUnreachable    no database in a folder, or no server that answers      (ConnectionError)
    ├── CollectionChanged      records were removed from a collection that was read    (RuntimeError)
    ├── ExportFileError        a file is no whole and sound export of a collection     (ValueError)
    ├── RecordConflict         an import's records are there already, and differ       (ValueError)
    ├── ViewerError            Embedding Atlas is not there, too old, or failed        (RuntimeError)
    ├── IngestStopped          the database failed, or went away, during an ingest     (RuntimeError)
    ├── DiskFull               a disk had no room left for what was to be written      (OSError)
    ├── ModelNotFound          no short name, folder or Hub repository of that name    (FileNotFoundError)
    ├── DownloadError          the model is not cached and could not be downloaded     (ConnectionError)
    ├── CacheError             the models' cache cannot be read, written or cleared     (OSError)
    ├── CheckpointError        a folder is not a checkpoint this engine can run        (ValueError)
    │   ├── CorruptCheckpoint  a file is damaged or missing
    │   ├── UnsupportedModel   an architecture, or a feature of one, that is not implemented
    │   └── WeightsMismatch    the weights do not fit config.json
    ├── EngineError            the forward pass gave no usable vectors, or cannot run  (RuntimeError)
    │   ├── ForkedProcess      MLX was in use when this process was forked
    │   └── SchedulerClosed    the engine was closed and takes no more texts
    ├── QueueFull              more texts wait than may, under queue_policy="fail_fast" (RuntimeError)
    ├── DeadlineExceeded       a call's time was up before its texts were computed     (TimeoutError)
    ├── RemoteError            an embedding server cannot be reached, or fails         (ConnectionError)
    ├── MissingPackage         a package that is needed is not installed               (ValueError)
    └── BLASError              CHROMA_MLX_BLAS names a library that cannot be used     (RuntimeError)

Each message says what happened, why, and what to do; the data of it rides along as attributes. The
built-in types beside the tree are the second base class, so that code that knows nothing of this
package catches them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ChromaMLXError(Exception):
    """Base of every error that this package raises on purpose. It can be pickled, as other processes send it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The message is made of the arguments, so that those of the class cannot be had back from it.
        return _raised_elsewhere, (type(self), self.args, self.__dict__)


def _raised_elsewhere(kind: type[ChromaMLXError], args: tuple[Any, ...], data: dict[str, Any]) -> ChromaMLXError:
    error = kind.__new__(kind)
    error.args = args  # which an OSError takes by __init__ alone
    error.__dict__.update(data)
    return error


class ConfigError(ChromaMLXError, ValueError):
    """An argument, a configuration file or a saved configuration is not allowed.

    `problems` has a sentence for each thing that is wrong, where there can be several.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class InputError(ChromaMLXError, ValueError):
    """A text cannot be embedded. `index` is its place in the call, None when the call itself is wrong."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TextTooLong(InputError):
    """A text has more tokens than `limit` while `on_long_text="error"`."""

    def __init__(self, *, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"Text {index} has {tokens} tokens, but the limit is {limit}, and on_long_text='error' forbids "
            "cutting it. Split the text into passages, raise max_tokens if the model allows more, or use "
            "on_long_text='truncate'.",
            index=index,
        )
        self.tokens, self.limit = tokens, limit


class VectorsOnly(InputError):
    """Text came without a vector to a collection whose vectors are made elsewhere."""


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """What is wrong with one record: its place in the call, its id if it has one, and why, in words."""

    index: int
    id: str | None
    reason: str

    def __str__(self) -> str:
        name = f"Record {self.index}" + ("" if self.id is None else f" (id {self.id!r})")
        return f"{name}: {self.reason}"


class RecordError(InputError):
    """Records of a call are not valid, so nothing was written. `problems` has every one of them."""

    SHOWN = 5

    def __init__(self, problems: Sequence[RecordProblem], *, total: int) -> None:
        shown = [str(problem) for problem in problems[: self.SHOWN]]
        if len(problems) > self.SHOWN:
            shown.append(f"… and {len(problems) - self.SHOWN:,} more.")
        lead = "" if len(problems) == 1 else f"{len(problems):,} problems in {total:,} records.\n  "
        super().__init__(f"{lead}{chr(10).join(shown).replace(chr(10), chr(10) + '  ')} Nothing was written.")
        self.problems = tuple(problems)
        self.index, self.id = problems[0].index, problems[0].id


class DimensionMismatch(ChromaMLXError, ValueError):
    """Vectors have another width than those of the collection."""

    def __init__(self, message: str, *, expected: int, got: int) -> None:
        super().__init__(message)
        self.expected, self.got = expected, got


class CollectionMismatch(ChromaMLXError, ValueError):
    """A collection was made with other settings. `differences` has (stored, given) by the field's name."""

    def __init__(self, message: str, *, differences: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.differences = dict(differences)


class PartialWrite(ChromaMLXError, RuntimeError):
    """The database failed after `written` of `total` records, the first of the call, were stored."""

    def __init__(self, *, written: int, total: int, method: str, reason: str) -> None:
        again = "update" if method == "update" else "upsert"  # add refuses what is there by now
        super().__init__(
            f"The first {written:,} of {total:,} records were written, then the database failed ({reason}). Nothing "
            f"else was written. Once the database is well, call {again} again with all of them; what is there is "
            "replaced by the same."
        )
        self.written, self.total = written, total


class DatabaseUnreachable(ChromaMLXError, ConnectionError):
    """There is no Chroma database in a folder, or no server answers."""


class CollectionChanged(ChromaMLXError, RuntimeError):
    """Records were removed from a collection while it was read, so that others would have been missed."""


class ExportFileError(ChromaMLXError, ValueError):
    """A file is not a whole and sound export of a collection."""


class RecordConflict(ChromaMLXError, ValueError):
    """`count` records of an import are in the collection and differ; `ids` are the first of them."""

    def __init__(self, *, name: str, ids: Sequence[str], count: int) -> None:
        more = f" and {count - len(ids):,} more" if count > len(ids) else ""
        super().__init__(
            f"{count:,} of the file's records are in collection {name!r} already, and differ from the file's: "
            f"{', '.join(map(repr, ids))}{more}. Import into another collection, or pass --overwrite to have those "
            "of the file. Nothing was written."
        )
        self.ids, self.count = tuple(ids), count


class ViewerError(ChromaMLXError, RuntimeError):
    """Embedding Atlas is not on the path, too old, or failed."""


class IngestStopped(ChromaMLXError, RuntimeError):
    """The database failed during an ingest, or was away for longer than it may; what was written stays.

    `waited_s` is how long it was waited for, None when waiting would not have helped.
    """

    def __init__(self, *, reason: str, waited_s: float | None) -> None:
        waited = "" if waited_s is None else f", and was waited for {waited_s:.0f} s"
        super().__init__(
            f"The database failed ({reason}){waited}. What was written until then stays, and can be queried. Once the "
            "database is well, run the same ingest again: it goes on from there."
        )
        self.reason, self.waited_s = reason, waited_s


class DiskFull(ChromaMLXError, OSError):
    """The disk of a database, of its server, or of a file that is written has no room left.

    `kept` is whether what was written until then stays.
    """

    def __init__(self, *, reason: str, kept: bool = True) -> None:
        stays = "What was written until then stays" if kept else "Nothing of the file is kept"
        goes_on = ": it goes on from there" if kept else ""
        super().__init__(f"A disk is full ({reason}). {stays}. Free room on it, and run the same again{goes_on}.")
        self.reason, self.kept = reason, kept


class ModelNotFound(ChromaMLXError, FileNotFoundError):
    """No short name, local folder or Hub repository answers to the model name."""


class DownloadError(ChromaMLXError, ConnectionError):
    """The model is not cached, and downloading it failed or is not allowed."""


class CacheError(ChromaMLXError, OSError):
    """The folder that models are kept in cannot be read, written to, or removed from."""


class CheckpointError(ChromaMLXError, ValueError):
    """A folder is not a checkpoint that this engine can run."""


class CorruptCheckpoint(CheckpointError):
    """A file of the checkpoint is damaged, incomplete or missing."""


class UnsupportedModel(CheckpointError):
    """The checkpoint needs an architecture, or a feature of one, that is not implemented."""


class WeightsMismatch(CheckpointError):
    """The weights do not fit config.json. `missing`, `unexpected` and `misshapen` hold the names."""

    def __init__(
        self, message: str, *, missing: tuple[str, ...], unexpected: tuple[str, ...], misshapen: tuple[str, ...]
    ) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen


class EngineError(ChromaMLXError, RuntimeError):
    """The forward pass gave no usable vectors, or the engine cannot run here."""


class ForkedProcess(EngineError):
    """MLX was in use in the parent when this process was forked, so it cannot be used here."""


class SchedulerClosed(EngineError):
    """The engine was closed."""

    def __init__(self) -> None:
        super().__init__("The engine was closed and takes no more texts. Embed before it is closed.")


class QueueFull(ChromaMLXError, RuntimeError):
    """As many texts wait for the model as may. `pending` wait now, of `limit`; room is expected in `retry_after_s`.

    `what` is waiting and `bound` the name of the limit, where it is another than that of texts. `reason` is the message
    without the word on `queue_policy`, which is no matter of a server's client.
    """

    def __init__(
        self,
        *,
        pending: int,
        limit: int,
        retry_after_s: float,
        what: str = "texts wait for the model",
        bound: str = "max_queue",
    ) -> None:
        reason = (
            f"{pending} {what}, and {bound} is {limit}, so this call is refused. Call again in "
            f"{retry_after_s:.3g} s, when those are expected to be done"
        )
        super().__init__(f"{reason}, or let calls wait with queue_policy='wait'.")
        self.reason = f"{reason}."
        self.pending, self.limit, self.retry_after_s = pending, limit, retry_after_s


class DeadlineExceeded(ChromaMLXError, TimeoutError):
    """A call's time was up; what it had left to compute was dropped. `waited_s` is how long it waited."""

    def __init__(self, *, waited_s: float) -> None:
        super().__init__(
            f"The call's time was up after {waited_s:.3g} s, before all of its texts were embedded, so nothing is "
            "returned. Allow more time, send fewer texts a call, or call when less is going on."
        )
        self.waited_s = waited_s


class RemoteError(ChromaMLXError, ConnectionError):
    """An embedding server cannot be reached, or failed; `may_pass` is whether the same call may go well later."""

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class MissingPackage(ChromaMLXError, ValueError):
    """A package that is needed is not installed (a ValueError, as Chroma's own functions raise)."""

    def __init__(self, package: str, requirement: str) -> None:
        super().__init__(
            f"The {package} python package is not installed. Please install it with `pip install {requirement}`"
        )
        self.package, self.requirement = package, requirement


class BLASError(ChromaMLXError, RuntimeError):
    """CHROMA_MLX_BLAS names a library that cannot be used."""


class FallbackWarning(UserWarning):
    """The model is not to be had, and the configuration's `fallback` took its place."""


class UncheckedSpace(UserWarning):
    """A collection was opened with `same_space=True`, and none of its records has a text to hold that to."""


class CheckpointDiffers(UserWarning):
    """A checkpoint is not what the table of models says of it; what the checkpoint says holds."""


class CacheSetAside(UserWarning):
    """The vector cache cannot be used any more in this process; every text is computed."""


class CacheNotPruned(UserWarning):
    """A model is there, but `max_cache_gb` could not be kept to: what should have gone could not be removed."""


class UncheckedModel(UserWarning):
    """A model of the cache is used although nothing says that all of its files are there."""
