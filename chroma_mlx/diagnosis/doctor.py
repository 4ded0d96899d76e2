"""What a machine has for this package, part by part: what is there, what is wrong, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..config import EmbeddingConfig, resolve
from ..config.embedding import ConfigSource
from ..errors import ChromaMLXError, DownloadError, MissingPackage, ModelNotFound
from ..models.known import find_known
from .machine import Machine, chip

PACKAGES: Final = ("chroma-mlx", "chromadb", "mlx", "huggingface-hub", "tokenizers", "numpy", "scipy-openblas32")
OPTIONAL: Final = frozenset({"scipy-openblas32"})
# Beside the weights: activations of a batch, Python, Chroma.
BESIDE_WEIGHTS: Final = 1.5e9
TEXT: Final = "One text, to see how long it takes."


@dataclass(frozen=True, slots=True)
class Check:
    """One part: `ok` or not, what was found, and what to do where it is not ok. `ok` None was not examined."""

    name: str
    ok: bool | None
    found: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def examine(source: ConfigSource = None, machine: Machine | None = None) -> Iterator[Check]:
    """Each part in turn, as soon as it is known. Fetches nothing; loads the model if it is on this disk and fits."""
    machine = machine or Machine()
    yield _versions()
    yield _platform()
    config, check = _configuration(source)
    yield check
    yield _guarded("MLX", _mlx, config, machine)
    if sys.platform == "linux":
        yield _guarded("BLAS", _blas, config, machine)
    memory = _guarded("memory", _memory, config, machine)
    yield memory
    yield _guarded("cache", _cache, config, machine)
    if config.embedding_cache is not None:
        yield _guarded("vector cache", _vector_cache, config, machine)
    if not check.ok:
        yield Check("model", None, "not examined, since the configuration that names it is not valid")
    elif memory.ok:
        yield _guarded("model", _model, config, machine)
    else:
        yield Check("model", False, "not loaded, since it would not fit into the memory", memory.remedy)


def _guarded(
    name: str, part: Callable[[EmbeddingConfig, Machine], Check], config: EmbeddingConfig, machine: Machine
) -> Check:
    try:
        return part(config, machine)
    except (ChromaMLXError, OSError, ImportError, RuntimeError, ValueError) as error:
        return Check(name, False, str(error) or type(error).__name__, "The message says what to do.")


def _versions() -> Check:
    found, missing = [f"Python {platform.python_version()}"], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            if package not in OPTIONAL:
                missing.append(package)
    remedy = f"pip install {' '.join(missing)}" if missing else None
    return Check("versions", not missing, ", ".join(found), remedy)


def _platform() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    translated = sys.platform == "darwin" and platform.machine() == "x86_64"
    remedy = "MLX needs Apple silicon and a native Python: this one is for Intel. Install the arm64 one."
    return Check(
        "platform",
        not translated,
        f"{platform.system()} {platform.release()} {platform.machine()}, {chip()}, {cores} cores",
        remedy if translated else None,
    )


def _vector_cache(config: EmbeddingConfig, machine: Machine) -> Check:
    from ..engine.vector_cache import VectorCache

    path = config.embedding_cache_path
    assert path is not None  # it is examined only where one is set
    remedy = "Set embedding_cache to a file on a local disk that may be written to, or to null."
    if not path.exists():
        parent = next(each for each in path.absolute().parents if each.exists())
        possible = machine.writable(parent)
        found = f"{path} is made at first use" if possible else f"{path} cannot be made in {parent}"
        return Check("vector cache", possible, found, None if possible else remedy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it would warn of is said here
        cache = VectorCache(path, int(config.embedding_cache_gb * 1e9))
        aside = cache.is_aside
        cache.close()
    found = f"{path}, {path.stat().st_size / 1e6:.1f} MB" if not aside else f"{path} cannot be used"
    return Check("vector cache", not aside, found, remedy if aside else None)


def _configuration(source: ConfigSource) -> tuple[EmbeddingConfig, Check]:
    try:
        effective = resolve(source)
    except ChromaMLXError as error:
        remedy = "Mend it; till then the machine is examined with the defaults, and no model."
        # A mode without a model, so that none is missed that nobody configured.
        return EmbeddingConfig(mode="mock"), Check("configuration", False, str(error), remedy)
    where = sorted({place for place in effective.sources.values() if place != "default"}) or ["defaults alone"]
    config = effective.config
    return config, Check(
        "configuration", True, f"mode {config.mode}, model {config.model_name}; from {', '.join(where)}"
    )


def _mlx(config: EmbeddingConfig, machine: Machine) -> Check:
    gpu = machine.gpu()
    device = "gpu" if gpu and config.device != "cpu" else "cpu"
    ok = gpu or config.device != "gpu"
    remedy = None if ok else "device is 'gpu', and MLX finds none: set it to 'auto', or install `mlx[cuda13]` on Linux."
    version = importlib.metadata.version("mlx")
    return Check("MLX", ok, f"mlx {version}, {'a GPU' if gpu else 'no GPU'}; runs on the {device}", remedy)


def _blas(config: EmbeddingConfig, machine: Machine) -> Check:
    from ..blas import load_fast_blas

    info = load_fast_blas()
    return Check("BLAS", info.fast, f"{info.name}{f' ({info.path})' if info.path else ''}", info.remedy)


def _memory(config: EmbeddingConfig, machine: Machine) -> Check:
    total = machine.memory()
    found = f"{total / 1e9:.1f} GB to use"
    known = find_known(config.model_name)
    if known is None or config.mode != "mlx":
        return Check("memory", True, found)
    try:
        on_cpu = config.device == "cpu" or not machine.gpu()
    except (ChromaMLXError, OSError, ImportError, RuntimeError):  # what is wrong with MLX is said there
        on_cpu = True
    # On a CPU weights are unpacked to float32, on a GPU they stay as they are.
    needed = (known.parameters * 4 if on_cpu else known.download_bytes) + BESIDE_WEIGHTS
    remedy = None if needed <= total else "Take a smaller model: `chroma-mlx models list`."
    on = "CPU" if on_cpu else "GPU"
    return Check(
        "memory", needed <= total, f"{found}; {known.name} needs about {needed / 1e9:.1f} GB on the {on}", remedy
    )


def _cache(config: EmbeddingConfig, machine: Machine) -> Check:
    from ..checkpoint.hub import cache_folder

    folder = cache_folder(config.machine.cache_path)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free, missing = machine.free(existing), _missing_bytes(config, folder)
    remedy = None
    if missing != 0 and not machine.writable(existing):
        remedy = "It cannot be written to: set cache_dir or CHROMA_MLX_CACHE_DIR to a folder that can."
    elif missing is not None and missing > free:
        remedy = "Too little room for the model: `chroma-mlx models prune --max-gb N`, or set cache_dir."
    to_fetch = f", {missing / 1e9:.1f} GB to fetch" if missing else ""
    return Check("cache", remedy is None, f"{folder}, {free / 1e9:.1f} GB free{to_fetch}", remedy)


def _missing_bytes(config: EmbeddingConfig, cache: Path) -> int | None:
    """About how much of the model is still to be fetched; None where its size is not known."""
    from ..checkpoint.locate import locate

    if config.mode != "mlx":
        return 0
    try:
        locate(config.model_name, cache_path=config.machine.cache_path, auto_download=False, show_progress=False)
    except ModelNotFound:
        return 0  # the model's own part says so
    except DownloadError:
        known = find_known(config.model_name)
        if known is None or known.repo_id is None:
            return None
        # What an interrupted download left is gone on with.
        blobs = (cache / f"models--{known.repo_id.replace('/', '--')}" / "blobs").glob("*")
        return max(0, known.download_bytes - sum(blob.stat().st_size for blob in blobs))
    return 0


def _model(config: EmbeddingConfig, machine: Machine) -> Check:
    from ..router.embedders import MLXEmbedder

    if config.mode != "mlx":
        return Check("model", True, f"mode {config.mode} uses none")
    embedder = MLXEmbedder(replace(config, embedding_cache=None))  # the timed text is computed
    started = time.perf_counter()
    try:
        embedder.probe()
    except DownloadError:
        remedy = f"`chroma-mlx models download {config.model_name}` on a connected machine."
        return Check("model", False, f"{config.model_name} is not whole in the cache{_fallback(config)}", remedy)
    except MissingPackage as error:
        return Check("model", False, f"{config.model_name} cannot run here{_fallback(config)}", str(error))
    loaded = time.perf_counter()
    embedder.embed([TEXT], "document")
    from ..models.activations import compiled_functions  # imports MLX, which is running by now

    took, loading = time.perf_counter() - loaded, loaded - started
    info, compiled = embedder.info(), compiled_functions()
    return Check(
        "model",
        True,
        f"{config.model_name}: {info.dimension} dimensions, {info.quantization}, "
        f"{(info.memory_bytes or 0) / 1e6:,.0f} MB on the {info.device}; loaded with a first text in "
        f"{loading * 1000:,.0f} ms, one more text in {took * 1000:,.1f} ms"
        + (f"; MLX compiled {compiled} activation(s), each for every shape" if compiled else ""),
    )


def _fallback(config: EmbeddingConfig) -> str:
    """What `fallback` makes of a model that is not there: a fault still, since the vectors would not be the model's."""
    if config.fallback != "mock":
        return ""
    return ": unless it can be had at first use, mock vectors take its place (fallback is mock), good for tests alone"
