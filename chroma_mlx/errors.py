"""Every error of the package, in one tree (the demo adds EmptyCorpus to it).

    ChromaMLXError
    ├── ConfigError            an argument or a saved configuration is not allowed      (ValueError)
    ├── InputError             a text cannot be embedded; nothing is returned          (ValueError)
    │   └── TextTooLong        a text is longer than the limit under on_long_text="error"
    ├── ModelNotFound          no short name, folder or Hub repository of that name    (FileNotFoundError)
    ├── DownloadError          the model is not cached and could not be downloaded     (ConnectionError)
    ├── CheckpointError        a folder is not a checkpoint this engine can run        (ValueError)
    │   ├── CorruptCheckpoint  a file is damaged or missing
    │   ├── UnsupportedModel   an architecture, or a feature of one, that is not implemented
    │   └── WeightsMismatch    the weights do not fit config.json
    ├── EngineError            the forward pass gave no usable vectors, or cannot run  (RuntimeError)
    │   └── ForkedProcess      MLX was in use when this process was forked
    ├── MissingPackage         a package that is needed is not installed               (ValueError)
    └── BLASError              CHROMA_MLX_BLAS names a library that cannot be used     (RuntimeError)

Each message says what happened, why, and what to do; the data of it rides along as attributes. The
built-in types beside the tree are the second base class, so that code that knows nothing of this
package catches them too.
"""

from __future__ import annotations


class ChromaMLXError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ChromaMLXError, ValueError):
    """An argument or a saved configuration is not allowed."""


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


class ModelNotFound(ChromaMLXError, FileNotFoundError):
    """No short name, local folder or Hub repository answers to the model name."""


class DownloadError(ChromaMLXError, ConnectionError):
    """The model is not cached, and downloading it failed or is not allowed."""


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


class MissingPackage(ChromaMLXError, ValueError):
    """A package that is needed is not installed (a ValueError, as Chroma's own functions raise)."""

    def __init__(self, package: str, requirement: str) -> None:
        super().__init__(
            f"The {package} python package is not installed. Please install it with `pip install {requirement}`"
        )
        self.package, self.requirement = package, requirement


class BLASError(ChromaMLXError, RuntimeError):
    """CHROMA_MLX_BLAS names a library that cannot be used."""
