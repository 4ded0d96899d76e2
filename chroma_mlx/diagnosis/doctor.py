"""What a machine has for this package, part by part: what is there, what is wrong, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..config import EmbeddingConfig, resolve
from ..config.embedding import ConfigSource
from ..errors import ChromaMLXError
from ..models.known import find_known

PACKAGES: Final = ("chroma-mlx", "chromadb", "mlx", "huggingface-hub", "tokenizers", "numpy", "scipy-openblas32")
OPTIONAL: Final = frozenset({"scipy-openblas32"})
# Beside the weights: activations of a batch, Python, Chroma.
BESIDE_WEIGHTS: Final = 1.5e9
TEXT: Final = "One text, to see how long it takes."


@dataclass(frozen=True, slots=True)
class Check:
    """One part: `ok` or not, what was found, and what to do where it is not ok."""

    name: str
    ok: bool
    found: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def examine(source: ConfigSource = None) -> Iterator[Check]:
    """Each part in turn, as soon as it is known. Fetches nothing; loads the model if it is on this disk."""
    yield _versions()
    yield _platform()
    config, check = _configuration(source)
    yield check
    yield _guarded("MLX", _mlx, config)
    if sys.platform == "linux":
        yield _guarded("BLAS", _blas, config)
    yield _guarded("memory", _memory, config)
    yield _guarded("cache", _cache, config)
    yield _guarded("model", _model, config)


def _guarded(name: str, part: Callable[[EmbeddingConfig], Check], config: EmbeddingConfig) -> Check:
    try:
        return part(config)
    except (ChromaMLXError, OSError, ImportError, RuntimeError) as error:
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
        f"{platform.system()} {platform.release()} {platform.machine()}, {_chip()}, {cores} cores",
        remedy if translated else None,
    )


def _chip() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown chip"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown chip"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown chip")


def _configuration(source: ConfigSource) -> tuple[EmbeddingConfig, Check]:
    try:
        effective = resolve(source)
    except ChromaMLXError as error:
        remedy = "Mend it; the rest is examined with the defaults."
        return EmbeddingConfig(), Check("configuration", False, str(error), remedy)
    where = sorted({place for place in effective.sources.values() if place != "default"}) or ["defaults alone"]
    config = effective.config
    return config, Check(
        "configuration", True, f"mode {config.mode}, model {config.model_name}; from {', '.join(where)}"
    )


def _mlx(config: EmbeddingConfig) -> Check:
    from ..engine.mlx_thread import mlx_thread

    def look() -> tuple[str, bool]:
        import mlx.core as mx

        return importlib.metadata.version("mlx"), mx.is_available(mx.Device(mx.DeviceType.gpu))

    version, gpu = mlx_thread.run(look)
    device = "gpu" if gpu and config.device != "cpu" else "cpu"
    ok = gpu or config.device != "gpu"
    remedy = None if ok else "device is 'gpu', and MLX finds none: set it to 'auto', or install `mlx[cuda13]` on Linux."
    return Check("MLX", ok, f"mlx {version}, {'a GPU' if gpu else 'no GPU'}; runs on the {device}", remedy)


def _blas(config: EmbeddingConfig) -> Check:
    from ..blas import load_fast_blas

    info = load_fast_blas()
    return Check("BLAS", info.fast, f"{info.name}{f' ({info.path})' if info.path else ''}", info.remedy)


def _memory(config: EmbeddingConfig) -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    known = find_known(config.model_name)
    if known is None:
        return Check("memory", True, f"{total / 1e9:.1f} GB in all")
    # On a CPU weights are unpacked to float32, on a GPU they stay as they are.
    on_cpu = sys.platform == "linux"
    needed = (known.parameters * 4 if on_cpu else known.download_bytes) + BESIDE_WEIGHTS
    remedy = None if needed <= total else "Take a smaller model: `chroma-mlx models list`."
    return Check(
        "memory",
        needed <= total,
        f"{total / 1e9:.1f} GB in all; {known.name} needs about {needed / 1e9:.1f} GB",
        remedy,
    )


def _cache(config: EmbeddingConfig) -> Check:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = config.machine.cache_path or Path(HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    known = find_known(config.model_name)
    writable = os.access(existing, os.W_OK)
    roomy = known is None or known.repo_id is None or free > known.download_bytes
    remedy = None
    if not writable:
        remedy = "It cannot be written to: set cache_dir or CHROMA_MLX_CACHE_DIR to a folder that can."
    elif not roomy:
        remedy = "Too little room for the model: `chroma-mlx models prune --max-gb N`, or set cache_dir."
    return Check("cache", remedy is None, f"{folder}, {free / 1e9:.1f} GB free", remedy)


def _model(config: EmbeddingConfig) -> Check:
    from ..router.router import EmbeddingRouter

    if config.mode != "mlx":
        return Check("model", True, f"mode {config.mode} uses none")
    router = EmbeddingRouter(config, embedding_cache=None)  # the timed text is computed
    health = router.health_check()
    if not health:
        return Check(
            "model", False, health.detail, f"`chroma-mlx models download {config.model_name}` on a connected machine."
        )
    started = time.perf_counter()
    router.embed([TEXT], "document")
    took = (time.perf_counter() - started) * 1000
    info = router.model_info()
    return Check(
        "model",
        True,
        f"{config.model_name}: {info.dimension} dimensions, {info.quantization}, "
        f"{(info.memory_bytes or 0) / 1e6:,.0f} MB on the {info.device}; loaded with a first text in "
        f"{health.milliseconds:,.0f} ms, one more text in {took:,.1f} ms",
    )
