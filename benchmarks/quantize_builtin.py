"""What quantising the built-in model costs, and how the one in the package is made.

    python benchmarks/quantize_builtin.py ORIGINAL [--write]

ORIGINAL is the folder of the float16 checkpoint. Quantises it with MLX's own `mx.quantize` in several ways,
embeds the reference texts of the tests with each, and prints a table. `--write` puts the chosen one into
the package; it is byte for byte what is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.engine.mlx_thread import mlx_thread

REFERENCE = Path(__file__).parent.parent / "tests" / "data" / "builtin"
WAYS = [(bits, group, "affine") for bits in (8, 6, 4) for group in (64, 32)] + [(8, 32, "mxfp8")]
CHOSEN = (8, 64, "affine")


def write_quantized(original: Path, target: Path, bits: int, group_size: int, mode: str) -> Path:
    """Copies `original` to `target` with every matrix packed; norms stay as they are. On the MLX thread."""
    import mlx.core as mx

    shutil.copytree(original, target, dirs_exist_ok=True)
    tensors: dict[str, Any] = {}
    arrays = mx.load(str(original / "model.safetensors"))
    assert isinstance(arrays, dict)
    for name, array in arrays.items():
        if array.ndim != 2:
            tensors[name] = array
            continue
        path = name.removesuffix(".weight")
        packed = mx.quantize(array.astype(mx.float16), group_size=group_size, bits=bits, mode=mode)
        tensors |= dict(zip((name, f"{path}.scales", f"{path}.biases"), packed, strict=False))
    mx.save_safetensors(str(target / "model.safetensors"), tensors)
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    config["quantization"] = {"group_size": group_size, "bits": bits, "mode": mode}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target


def row(name: str, folder: Path, texts: list[str], expected: np.ndarray) -> str:
    """A row of the table: the file's size, and cosines with the reference."""
    cosines = (MLXEmbeddingFunction(str(folder)).encode(texts) * expected).sum(axis=1)
    size = (folder / "model.safetensors").stat().st_size
    return f"| {name} | {size / 1e6:.2f} | {cosines.min():.6f} | {cosines.mean():.6f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("--write", action="store_true", help="put the chosen one into the package")
    options = parser.parse_args()
    texts = json.loads((REFERENCE / "texts.json").read_text(encoding="utf-8"))
    expected = np.load(REFERENCE / "reference.npz")["vectors"]
    print("| weights | MB | smallest cosine | mean cosine |\n|---|---|---|---|")
    print(row("float16", options.original, texts, expected))
    with tempfile.TemporaryDirectory() as scratch:
        for way in WAYS:
            bits, group_size, mode = way
            target = Path(scratch) / f"{mode}-{bits}-{group_size}"
            mlx_thread.run(write_quantized, options.original, target, bits, group_size, mode)
            print(row(f"{mode}, {bits} bits, groups of {group_size}", target, texts, expected))
            if options.write and way == CHOSEN:
                shutil.copytree(target, BUILTIN_FOLDER, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
