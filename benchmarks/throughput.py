"""Tokens and texts a second on the 0.6B shape: this project, MLX as it comes, and what the machine can do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common import in_child, medians, peak_bytes, seconds, spread
from shape import flops_per_token, make_texts, token_rows

TEXTS, QUICK_TEXTS = 32, 12
BATCH = 8  # the plain loop's: texts in input order, padded to the longest
SHORT_MEDIAN, SHORT_LARGEST, SHORT_SEED = 8, 12, 1
# MLX as it comes: the form of its weights, and how many of the short texts it gets. It computes a few
# tokens a second, or on packed bfloat16 less than one; its scalar loops are no slower on a longer batch.
PLAIN_FORMS = {"packed": 1, "bfloat16": BATCH, "float32": BATCH}


def measure(folder: str, quick: bool) -> dict[str, Any]:
    """Rounds of each way, interleaved, each in a fresh process."""
    texts, rounds = QUICK_TEXTS if quick else TEXTS, []
    for _ in range(1 if quick else 2):
        ours = in_child("throughput.this_project", folder=folder, count=texts)
        rounds.append({f"ours_{key}": value for key, value in ours.items()})
        for form, short in PLAIN_FORMS.items():
            plain = in_child("throughput.mlx_lm", folder=folder, form=form, fast=False, short=short, mix=texts)
            useful = plain["computed_per_s"] * plain["mix_fill"]
            rounds[-1] |= {
                f"{form}_tokens": plain["computed"],
                f"{form}_computed_per_s": plain["computed_per_s"],
                f"{form}_useful_per_s": useful,
                f"{form}_fill": plain["mix_fill"],
                f"{form}_ratio": ours["useful_per_s"] / useful,
                f"{form}_ratio_computed": ours["computed_per_s"] / plain["computed_per_s"],
            }
        fast = in_child("throughput.mlx_lm", folder=folder, form="float32", fast=True, short=0, mix=BATCH)
        rounds[-1] |= {f"fast_{key}": value for key, value in fast.items()}
        rounds[-1]["fast_ratio_computed"] = ours["computed_per_s"] / fast["computed_per_s"]
    return {**medians(rounds), "rounds": rounds}


def this_project(folder: str, count: int) -> dict[str, Any]:
    """The mix, then the short batch, through the embedding function."""
    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.engine.batching import PADDING_TOKENS, plan_batches

    function = MLXEmbeddingFunction(folder, show_progress=False)
    texts = make_texts(folder, count)
    function(["warm up"])
    before = product_rate()
    taken = seconds(lambda: function(texts))
    gflops = (before + product_rate()) / 2
    lengths = [len(row) for row in token_rows(folder, texts)]
    machine = function._encoder().machine
    batches = plan_batches(
        lengths,
        batch_size=machine.batch_size,
        batch_tokens=machine.batch_tokens,
        padding_tokens=PADDING_TOKENS["cpu"],
    )
    computed = sum(len(batch) * lengths[batch[0]] for batch in batches)
    return {
        "texts": count,
        "tokens": sum(lengths),
        "computed": computed,
        "batches": len(batches),
        "fill": sum(lengths) / computed,
        "useful_per_s": sum(lengths) / taken,
        "computed_per_s": computed / taken,
        "texts_per_s": count / taken,
        "gflops": gflops,
        "limit_per_s": gflops * 1e9 / flops_per_token(),
        "of_limit": computed / taken / (gflops * 1e9 / flops_per_token()),
        "peak_bytes": peak_bytes(),
    }


def mlx_lm(folder: str, form: str, fast: bool, short: int, mix: int) -> dict[str, Any]:
    """mlx-lm's model in the plain loop: `short` short texts in one batch, or where 0 the mix of `mix` texts.

    `form` "packed" is the model as mlx-lm loads it, "bfloat16" as it unpacks it; "float32" is that, cast.
    With `fast` MLX runs on the BLAS of this project.
    """
    if fast:
        from chroma_mlx.blas import load_fast_blas

        load_fast_blas()
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import dequantize_model, load_model

    model, _ = load_model(Path(folder))
    if form != "packed":
        dtype = getattr(mx, form)
        model = dequantize_model(model)
        model.update(tree_map(lambda array: array.astype(dtype), model.parameters()))
        mx.eval(model.parameters())
    lengths = [len(row) for row in token_rows(folder, make_texts(folder, mix))]
    rows = token_rows(folder, _short_texts(folder)[:short] if short else make_texts(folder, mix))
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        _embed_plainly(model.model, rows[first : first + BATCH])
    taken = time.perf_counter() - start
    useful, computed = _plain_tokens([len(row) for row in rows])
    mix_useful, mix_computed = _plain_tokens(lengths)
    return {
        "computed": computed,
        "useful_per_s": useful / taken,
        "computed_per_s": computed / taken,
        "mix_fill": mix_useful / mix_computed,
    }


def _embed_plainly(model: Any, batch: list[list[int]]) -> None:
    """One padded batch: hidden states, the last token of each row, read back."""
    import mlx.core as mx
    import numpy as np

    longest = max(map(len, batch))
    ids = mx.array([row + [0] * (longest - len(row)) for row in batch])  # (B, L)
    last = mx.array([len(row) - 1 for row in batch])
    hidden = model(ids)  # (B, L, H)
    np.array(hidden[mx.arange(len(batch)), last].astype(mx.float32))  # (B, H)


def _short_texts(folder: str) -> list[str]:
    return make_texts(folder, BATCH, median=SHORT_MEDIAN, largest=SHORT_LARGEST, seed=SHORT_SEED)


def _plain_tokens(lengths: list[int]) -> tuple[int, int]:
    """(useful, computed) tokens of the plain loop."""
    batches = [lengths[first : first + BATCH] for first in range(0, len(lengths), BATCH)]
    return sum(lengths), sum(len(batch) * max(batch) for batch in batches)


def product_rate() -> float:
    """GFLOP/s of NumPy's float32 product 512 x 1024 x 3072, the best of a quarter of a second."""
    import numpy as np

    left, right = np.ones((512, 1024), np.float32), np.ones((1024, 3072), np.float32)
    best, end = float("inf"), time.perf_counter() + 0.25
    while time.perf_counter() < end:
        best = min(best, seconds(lambda: left @ right))
    return 2 * 512 * 1024 * 3072 / best / 1e9


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    rounds, best = r["rounds"], max(PLAIN_FORMS, key=lambda form: r[f"{form}_useful_per_s"])
    plain = [
        f"| MLX as it comes, {form} | {r[f'{form}_useful_per_s']:.2f} * | {r[f'{form}_computed_per_s']:.2f} | "
        f"{r[f'{form}_fill']:.2f} | {r[f'{form}_ratio']:.0f} ({spread(rounds, f'{form}_ratio')}) | "
        f"{r[f'{form}_ratio_computed']:.0f} |"
        for form in PLAIN_FORMS
    ]
    tokens = ", ".join(f"{form} {r[f'{form}_tokens']}" for form in PLAIN_FORMS)
    lines = [
        f"{r['ours_texts']} texts of {r['ours_tokens']:,} tokens from a 4-bit checkpoint in {r['ours_batches']} "
        f"batches; medians of {len(rounds)} round(s).",
        "",
        "| | useful tokens/s | computed tokens/s | useful of computed | times, useful | times, computed |",
        "|---|---|---|---|---|---|",
        f"| this project | {r['ours_useful_per_s']:.1f} ({r['ours_texts_per_s']:.2f} texts/s) | "
        f"{r['ours_computed_per_s']:.1f} | {r['ours_fill']:.2f} | | |",
        *plain,
        f"| mlx-lm in float32 on this project's BLAS | {r['fast_useful_per_s']:.1f} | "
        f"{r['fast_computed_per_s']:.1f} | {r['fast_mix_fill']:.2f} | | {r['fast_ratio_computed']:.2f} |",
        "",
        f"\\* computed tokens/s, measured on a short batch ({tokens} tokens), times the share of useful tokens that "
        f"batches of {BATCH} texts in input order have over the same mix.",
        "",
        f"- **{r['packed_ratio']:.0f} times MLX as it comes** with this checkpoint; **{r[f'{best}_ratio']:.0f} times** "
        f"the fastest form of its weights, {best}.",
        f"- NumPy's float32 product runs at {r['ours_gflops']:.0f} GFLOP/s here, which would be "
        f"{r['ours_limit_per_s']:.0f} tokens/s; this project computes {r['ours_of_limit']:.2f} of that.",
    ]
    return "\n".join(lines)
