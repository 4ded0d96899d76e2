"""Before the first vector: imports, loading, a cold process, and the memory it takes."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import environment, in_child, medians, peak_bytes, seconds
from other_shapes import OTHER_SHAPES
from workloads import make_texts


def measure(folder: str, quick: bool) -> dict[str, Any]:
    """Medians over fresh processes, the kinds interleaved."""
    turns = range(1 if quick else 5)
    models = {"built-in": "builtin", "0.6B shape": folder}
    for name in OTHER_SHAPES:
        models[f"{name} shape"] = str(Path(folder) / name)
        in_child("other_shapes.write_checkpoint", folder=models[f"{name} shape"], name=name)
    imports, cold, packed = [], [], []
    loads: dict[str, list[Any]] = {name: [] for name in models}
    for _ in turns:
        imports.append(in_child("start.import_seconds"))
        cold.append(_cold_start())
        packed.append(in_child("start.load_packed", model=folder))
        for name, model in models.items():
            loads[name].append(in_child("start.load", model=model))
    return {
        "imports": medians(imports),
        "cold": medians(cold),
        "packed": medians(packed),
        "models": {name: medians(rows) for name, rows in loads.items()},
    }


def import_seconds() -> dict[str, Any]:
    """`import chromadb`, then what this project takes beyond it."""
    chroma = seconds(lambda: importlib.import_module("chromadb"))
    package = seconds(lambda: importlib.import_module("chroma_mlx"))
    return {"chromadb_s": chroma, "package_s": package, "mlx": "mlx.core" in sys.modules}


def load(model: str) -> dict[str, Any]:
    """Loading, after MLX is imported, and the process's peak memory then and after a full batch."""
    import numpy  # noqa: F401  what MLX's own import would otherwise be charged with

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.engine.mlx_thread import mlx_thread

    function = MLXEmbeddingFunction(model, show_progress=False)
    before = peak_bytes()
    mlx_s = seconds(lambda: mlx_thread.run(time.time))
    load_s = seconds(function.encoder().load)
    loaded = peak_bytes()
    function(["The first text."])
    if model == "builtin":
        function([f"{index} " + "a text of many words " * 60 for index in range(256)])
    else:
        function(make_texts(model, 4, median=200, largest=400))
    folder = function.encoder().load().checkpoint.folder
    return {
        "mlx_s": mlx_s,
        "load_s": load_s,
        "before_bytes": before,
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes(),
        "file_bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    }


def load_packed(model: str) -> dict[str, Any]:
    """Loading as on a GPU, where the weights stay packed; on whatever device MLX has here. Embeds nothing."""
    from functools import partialmethod

    from chroma_mlx.engine.mlx_thread import mlx_thread
    from chroma_mlx.engine.model import load_model
    from chroma_mlx.models.weights import Weights

    mlx_thread.run(time.time)
    plain: Any = Weights.__init__

    def as_on_a_gpu(self: Weights, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **{**options, "dense": False, "host": False, "compiles": True})

    Weights.__init__ = partialmethod(as_on_a_gpu)  # type: ignore[assignment,method-assign]
    found: list[Any] = []
    load_s = seconds(lambda: found.append(load_model(Path(model))))
    return {"load_s": load_s, "loaded_bytes": peak_bytes(), "weights_bytes": found[0].memory_bytes}


def _cold_start() -> dict[str, Any]:
    """A fresh interpreter to its first vector, and to its end, as a user's script would be."""
    script = (
        "from chroma_mlx import MLXEmbeddingFunction\n"
        "assert MLXEmbeddingFunction('builtin')(['The first text.'])[0].shape == (256,)\n"
        "print('done', flush=True)\n"
    )
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment()) as child:
        assert child.stdout is not None
        child.stdout.readline()
        first = time.perf_counter() - start
    if child.returncode != 0:
        raise SystemExit("A cold process failed; its error is above.")
    return {"first_vector_s": first, "ended_s": time.perf_counter() - start}


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    i, cold = r["imports"], r["cold"]
    rows = [
        f"| {name} | {m['file_bytes']:,} | {m['load_s']:.2f} s | {m['loaded_bytes']:,} | {m['peak_bytes']:,} |"
        for name, m in r["models"].items()
    ]
    return "\n".join(
        [
            f"- `import chromadb` {i['chromadb_s']:.2f} s; `import chroma_mlx` {i['package_s'] * 1000:.1f} ms beyond "
            f"it; MLX loaded by then: {'yes' if i['mlx'] else 'no'}.",
            f"- Cold start, built-in model: first vector {cold['first_vector_s']:.2f} s after the process is "
            f"started, its end after {cold['ended_s']:.2f} s. MLX's import and BLAS are "
            f"{r['models']['built-in']['mlx_s']:.2f} s of it.",
            f"- Memory before a model is loaded: {r['models']['built-in']['before_bytes']:,} bytes (mostly Chroma).",
            "",
            "| model | bytes on disk | load | peak resident, loaded | peak resident, after embedding |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"The weights of the 0.6B shape kept packed, as on a GPU, but on this machine's device: load "
            f"{r['packed']['load_s']:.2f} s, peak resident {r['packed']['loaded_bytes']:,} bytes, of which weights "
            f"{r['packed']['weights_bytes']:,.0f}.",
        ]
    )
