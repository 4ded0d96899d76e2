"""The section `peers` as Markdown."""

from __future__ import annotations

from typing import Any

from common import figure
from peers import OURS, SAME
from workloads import LATENCY_TOKENS, MANY

COLUMNS = 13
HEAD = (
    "| | texts/s | tokens/s | useful of computed | p50 | p95 | p99 | of the matrix product | peak memory | load "
    f"| cosine with ours | this project is faster | computed: with {MANY:,} texts |\n|{'---|' * COLUMNS}"
)


def describe(results: dict[str, Any]) -> str:
    """A table for each model and workload."""
    parts = []
    for subject in results.values():
        for work, title in subject["workloads"].items():
            ours = subject["peers"][OURS][work]
            size = f"{ours['texts']:,.0f} texts of {ours['tokens']:,.0f} tokens"
            size += "" if "tokens_per_s" in ours else ", the instruction counted with each"
            rounds = f"medians of {len(subject['rounds'])} round(s)"
            rounds += f", at {ours['commit']}" if "commit" in ours else ""
            rate = f"NumPy's or the GPU's product runs at {ours['gflops']:,.0f} GFLOP/s"
            parts.append(f"#### {subject['title']}, {title}\n\n{size}, {rounds}; {rate}.\n\n{HEAD}")
            peers = subject["peers"].items()  # some may have been run on other workloads alone
            parts[-1] += "\n" + "\n".join(
                _row(name, row, work, ours.get("commit")) for name, row in peers if "reason" in row or work in row
            )
    return "\n\n".join([*parts, _notes(results)])


def _row(name: str, figures: dict[str, Any], work: str, commit: str | None) -> str:
    """A peer's line; it says at what commit it was measured where that is not the table's."""
    if "reason" in figures:
        return f"| {name} | not run: {figures['reason']} |" + " |" * (COLUMNS - 2)
    r = figures[work]
    mark = " *" if r["estimated"] else ""
    times = [f"{r[f'p{percent}_ms']:,.1f} ms" if f"p{percent}_ms" in r else "-" for percent in (50, 95, 99)]
    useful = f"{r['useful_of_computed']:.2f}" if "useful_of_computed" in r else ""
    if "useful_of_places" in r:
        useful += f" ({r['useful_of_places']:.2f} of attention's places)"
    many = ""
    if "many_ratio" in r:
        many = f"{figure(r['many_ratio'])} times{mark} † (useful {r['many_useful_of_computed']:.2f})"
    memory = r.get("device_bytes") or r.get("peak_bytes")
    cosine = min(r["check_cosine"], r.get("cosine", 1.0))
    other = "" if cosine >= SAME else ": computes something else"
    spread = "" if r["ratio_min"] == r["ratio_max"] else f" ({figure(r['ratio_min'])} to {figure(r['ratio_max'])})"
    measured = r.get("commit")
    cells = [
        name if measured == commit else f"{name} (at {measured})",
        f"{figure(r['texts_per_s'])}{mark}",
        f"{figure(r['tokens_per_s'])}{mark}" if "tokens_per_s" in r else "",
        useful,
        *times,
        _share(r),
        f"{memory / 2**20:,.0f} MiB" if memory else "",
        f"{r['load_s']:.2f} s",
        "" if name == OURS else f"{cosine:.4f}{other}",
        "" if name == OURS else f"{figure(r['ratio'])} times{mark}{spread}",
        many,
    ]
    return f"| {' | '.join(cells)} |"


def _share(r: dict[str, Any]) -> str:
    if "of_limit" not in r:
        return ""
    attended = r.get("of_limit_with_attention")
    return f"{r['of_limit']:.2f}" + (f" ({attended:.2f} with attention's)" if attended is not None else "")


def _notes(results: dict[str, Any]) -> str:
    notes = [
        "p50, p95 and p99 are of calls with one text: every query of (d), and of the others the first texts of at most "
        f"{LATENCY_TOKENS} tokens; p95 of 20 calls or more, p99 of 100 or more. Cosine is the smallest, over short "
        "texts before the timing and over the workload itself."
    ]
    rows = [figures for subject in results.values() for peer in subject["peers"].values() for figures in peer.values()]
    rows = [row for row in rows if isinstance(row, dict)]  # a peer that was not run has a reason
    if any("many_ratio" in row for row in rows):
        notes.append(
            "† Computed, not measured: a peer that sorts texts and pads its batches pads less the more texts a call "
            f"has. Its measured rate in computed tokens, times the useful share of its batches over {MANY:,} texts of "
            "the same distribution, against this project's measured rate."
        )
    if any(row["estimated"] for row in rows):
        notes.append(
            "\\* Not run in full: computed tokens a second, measured on a short batch (MLX as it comes) or on a text "
            "of 80 tokens, times the share of useful tokens that the peer's batches have over the workload."
        )
    return "\n\n".join(notes)
