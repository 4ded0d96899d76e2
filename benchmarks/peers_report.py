"""The section `peers` as Markdown."""

from __future__ import annotations

from typing import Any

from common import figure
from peers import OURS, SAME

HEAD = (
    "| | texts/s | tokens/s | useful of computed | p50 | p95 | p99 | of the matrix product | peak memory | load "
    "| cosine with ours | this project is faster |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def describe(results: dict[str, Any]) -> str:
    """A table for each model and workload."""
    parts = []
    for subject in results.values():
        for work, title in subject["workloads"].items():
            ours = subject["peers"][OURS][work]
            size = f"{ours['texts']:,.0f} texts of {ours['tokens']:,.0f} tokens"
            rounds = f"medians of {len(subject['rounds'])} round(s)"
            rate = f"NumPy's or the GPU's product runs at {ours['gflops']:,.0f} GFLOP/s"
            parts.append(f"### {subject['title']}, {title}\n\n{size}, {rounds}; {rate}.\n\n{HEAD}")
            parts[-1] += "\n" + "\n".join(_row(name, figures, work) for name, figures in subject["peers"].items())
    return "\n\n".join([*parts, _notes(results)])


def _row(name: str, figures: dict[str, Any], work: str) -> str:
    if "reason" in figures:
        return f"| {name} | not run: {figures['reason']} |" + " |" * 10
    r = figures[work]
    mark = " *" if r["estimated"] else ""
    times = [f"{r[f'p{percent}_ms']:,.1f} ms" if f"p{percent}_ms" in r else "" for percent in (50, 95, 99)]
    cosine = min(r["check_cosine"], r.get("cosine", 1.0))
    other = "" if cosine >= SAME else ": computes something else"
    spread = "" if r["ratio_min"] == r["ratio_max"] else f" ({figure(r['ratio_min'])} to {figure(r['ratio_max'])})"
    cells = [
        name,
        f"{figure(r['texts_per_s'])}{mark}",
        f"{figure(r['tokens_per_s'])}{mark}",
        f"{r['useful_of_computed']:.2f}",
        *times,
        f"{r['of_limit']:.2f}" if "of_limit" in r else "",
        f"{(r['device_bytes'] or r['peak_bytes']) / 2**20:,.0f} MiB",
        f"{r['load_s']:.2f} s",
        "" if name == OURS else f"{cosine:.4f}{other}",
        "" if name == OURS else f"{figure(r['ratio'])} times{mark}{spread}",
    ]
    return f"| {' | '.join(cells)} |"


def _notes(results: dict[str, Any]) -> str:
    notes = [
        "p50, p95 and p99 are of calls with one text: every query of (d), the first texts of the others. Cosine is the "
        "smallest, over short texts before the timing and over the workload itself."
    ]
    rows = [figures for subject in results.values() for peer in subject["peers"].values() for figures in peer.values()]
    if any(isinstance(row, dict) and row["estimated"] for row in rows):
        notes.append(
            "\\* Not run in full: computed tokens a second, measured on a short batch (MLX as it comes) or on a text "
            "of 80 tokens, times the share of useful tokens that the peer's batches have over the workload."
        )
    return "\n\n".join(notes)
