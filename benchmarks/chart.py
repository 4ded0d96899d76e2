"""Charts of the last run as SVG, written by hand: readable in light and in dark mode, with the machine named."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from common import figure

WIDTH, LEFT, RIGHT = 800, 340, 190  # pixels; the names of bars on the left, their values on the right
ROW, BAR = 24, 15
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.title { font-size: 15px; font-weight: 600 }
.bar { fill: #8c959f } .ours { fill: #0969da }
.line { fill: none; stroke: #0969da; stroke-width: 2 } .dot { fill: #0969da }
.axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #8c959f; stroke-opacity: .3 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 }
.bar { fill: #6e7681 } .ours, .dot { fill: #4493f8 } .line { stroke: #4493f8 }
}
</style>"""


def write_charts(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes a chart for each model of the section `peers`, and one for `scale`, as far as they are in `results`."""
    written, machine = [], _machine(results["machine"], results.get("device", "cpu"))
    for name, subject in results.get("peers", {}).items():
        if "mix" in subject["workloads"]:
            written.append(folder / f"peers-{name}.svg")
            written[-1].write_text(peers_chart(subject, machine))
    if "scale" in results:
        written.append(folder / "scale.svg")
        written[-1].write_text(scale_chart(results["scale"]["counts"], machine))
    return written


def peers_chart(subject: dict[str, Any], machine: str, work: str = "mix") -> str:
    """Useful tokens a second of each peer on one workload, as bars from zero."""
    rows = [(name, figures[work]) for name, figures in subject["peers"].items() if work in figures]
    fastest = max(figures["tokens_per_s"] for _, figures in rows)
    shapes = [_text(10, 22, f"{subject['title']}, {subject['workloads'][work]}: tokens a second", "title")]
    for index, (name, figures) in enumerate(rows):
        y = 40 + index * ROW
        width = max(1.0, figures["tokens_per_s"] / fastest * (WIDTH - LEFT - RIGHT))
        kind = "ours" if index == 0 else "bar"
        value = figure(figures["tokens_per_s"])
        ratio = "" if index == 0 else f", this project {figure(figures['ratio'])} times"
        star = " *" if figures["estimated"] else ""
        shapes += [
            _text(LEFT - 8, y + 12, name.replace("SentenceTransformerEmbeddingFunction", "function"), anchor="end"),
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            _text(LEFT + width + 6, y + 12, f"{value}{star}{ratio}", "small"),
        ]
    bottom = 40 + len(rows) * ROW
    if any(figures["estimated"] for _, figures in rows):
        shapes.append(_text(10, bottom + 14, "* from the rate on short texts", "small"))
        bottom += 16
    for name, figures in rows:
        if "many_ratio" in figures:
            texts, ratio = f"{figures['many_texts']:,.0f} texts", figure(figures["many_ratio"])
            shapes.append(_text(10, bottom + 14, f"{name}, computed for {texts}: this project {ratio} times", "small"))
            bottom += 16
    shapes.append(_text(10, bottom + 14, machine, "small"))
    return _svg(bottom + 24, shapes)


def scale_chart(counts: Sequence[dict[str, Any]], machine: str) -> str:
    """Documents a second by number of documents, and resident memory through the longest run."""
    rates = [(math.log10(row["documents"]), row["documents_per_s"]) for row in counts]
    names = [f"{row['documents']:,.0f}" for row in counts]
    resident = [value / 2**20 for value in counts[-1]["resident"] if value is not None]
    shapes = [_text(10, 22, "Built-in model, short documents", "title")]
    shapes += _panel(60, rates, "documents a second, by number of documents", names)
    if resident:
        shapes += _panel(440, list(enumerate(resident)), f"resident MiB, through {names[-1]}", ["first call", "last"])
    return _svg(280, [*shapes, _text(10, 270, machine, "small")])


def _panel(left: float, points: Sequence[tuple[float, float]], title: str, names: Sequence[str]) -> list[str]:
    """A line from zero up in a frame of 280 x 160; `names` stand below its points, or below the first and last."""
    top, width, height = 60, 260, 160
    first, last = points[0][0], points[-1][0]
    highest = _round_up(max(value for _, value in points))
    places = [
        (left + (x - first) / ((last - first) or 1) * width, top + height - y / highest * height) for x, y in points
    ]
    shapes = [_text(left, 46, title, "small")]
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        shapes.append(
            f'<line class="{"axis" if share == 0 else "grid"}" x1="{left}" y1="{y}" x2="{left + width}" y2="{y}"/>'
        )
        shapes.append(_text(left - 6, y + 4, f"{highest * share:,.0f}", "small", anchor="end"))
    shapes.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    shapes += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    marked = places if len(names) == len(places) else [places[0], places[-1]]
    shapes += [
        _text(x, top + height + 18, name, "small", anchor="middle") for (x, _), name in zip(marked, names, strict=True)
    ]
    return shapes


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, shapes: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            STYLE,
            *shapes,
            "</svg>\n",
        ]
    )


def _machine(m: dict[str, Any], device: str) -> str:
    where = "" if device == "cpu" else f", computed on its GPU ({m['gpu'] or 'its own'})"
    return f"{m['processor']}, {m['cores']} cores, {m['system']}{where}"


def main() -> None:
    """Draws the charts again from a file that run.py wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    last = Path(__file__).parent / "results" / "last.json"
    parser.add_argument("results", type=Path, nargs="?", default=last, help="what run.py wrote (results/last.json)")
    parser.add_argument("folder", type=Path, nargs="?", help="an existing one to draw into (that of the results)")
    options = parser.parse_args()
    for path in write_charts(json.loads(options.results.read_text()), options.folder or options.results.parent):
        print(path)


if __name__ == "__main__":
    main()
