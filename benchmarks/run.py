"""Measures this project, and what else embeds text beside it; prints Markdown. See README.md in this folder."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chart
import demo
import ingest
import memory
import overhead
import peers
import peers_report
import prefix
import reingest
import router
import scale
import start
import venvs
from checkpoints import prepare_subjects
from common import HERE, at_least_one, commit, in_child, machine, writable_file
from shape import LAYERS, QUICK_LAYERS

ALONE = {
    "prefix": prefix,
    "reingest": reingest,
    "ingest": ingest,
    "scale": scale,
    "memory": memory,
    "overhead": overhead,
    "router": router,
    "start": start,
    "demo": demo,
}
SECTIONS = ("peers", *ALONE)
DESCRIBE = {"peers": peers_report.describe, **{name: module.describe for name, module in ALONE.items()}}
ROUNDS = 2
WORKLOADS = ("short", "mix", "full", "query")
RESULTS = HERE / "results"
LAST = RESULTS / "last.json"


def main() -> None:
    options = _arguments()
    if options.show:
        show(json.loads(LAST.read_text()))
        return
    results: dict[str, Any] = {"machine": machine(), "quick": options.quick, "device": options.device}
    if options.write:
        results = {**_kept(results), **results}
    print(machine_line(results["machine"]), flush=True)
    with tempfile.TemporaryDirectory(prefix="chroma-mlx-benchmark-") as scratch:
        folder = str(Path(scratch) / "0.6b")
        if set(options.only) & {"prefix", "reingest", "overhead", "start"}:
            in_child("shape.write_checkpoint", folder=folder, layers=QUICK_LAYERS if options.quick else LAYERS)
        for name in options.only:
            began = time.perf_counter()
            found = _measure(name, folder, Path(scratch), options, results)
            results[name] = merged(results.get(name, {}), found) if name == "peers" else found
            results["commits"] = {**results.get("commits", {}), name: commit()}
            _save(results, options)  # after each, since the whole takes long
            describe: Callable[[Any], str] = DESCRIBE[name]
            print(f"\n## {name} ({time.perf_counter() - began:.0f} s)\n\n{describe(found)}", flush=True)
    if options.write:
        chart.write_charts(results, RESULTS)


def show(results: dict[str, Any]) -> None:
    """Prints results as Markdown, section by section."""
    print(machine_line(results["machine"]))
    for name in (name for name in SECTIONS if name in results):
        describe: Callable[[Any], str] = DESCRIBE[name]
        at = "" if name == "peers" else f"Measured at {results['commits'][name]}.\n\n"  # its tables may differ
        print(f"\n### {name}\n\n{at}{describe(results[name])}")


def _save(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the figures so far to the files that are asked for."""
    if options.json:
        options.json.write_text(_as_json(results))
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        LAST.write_text(_as_json(results))


def _kept(results: dict[str, Any]) -> dict[str, Any]:
    """The sections of the last results that were measured on this machine with these versions."""
    last = json.loads(LAST.read_text()) if LAST.exists() else {}
    same = all(last.get(key) == results[key] for key in ("machine", "device"))
    return last if same else {}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The figures of the section peers with `new` ones in their places: a model's workloads, a peer's workloads.

    Ratios stay those of the round that they were measured in; each has the commit that was measured. Peers come
    in the order of a whole run, and those that it has no more behind them.
    """
    order = [peer.name for device in ("cpu", "gpu") for peer in peers.peers_for(device)]
    result = {**old, **new}
    for model in set(old) & set(new):
        before, now = old[model], new[model]
        peers_now = {
            name: figures if "reason" in figures else {**before["peers"].get(name, {}), **figures}
            for name, figures in now["peers"].items()
        }
        for figures in peers_now.values():
            if "reason" in figures and len(figures) > 1:
                del figures["reason"]
        workloads = {**before["workloads"], **now["workloads"]}
        rows = {**before["peers"], **peers_now}
        rows = {name: rows[name] for name in sorted(rows, key=[*order, *rows].index)}
        result[model] = {**now, "workloads": workloads, "peers": rows}
    return result


def _as_json(results: dict[str, Any]) -> str:
    return json.dumps(results, indent=1) + "\n"


def _measure(name: str, folder: str, scratch: Path, options: argparse.Namespace, results: dict[str, Any]) -> Any:
    """The figures of a section."""
    if name != "peers":
        return ALONE[name].measure(folder, options.quick)
    chosen = peers.peers_for(options.device, options.peers)
    names = {peer.environment for peer in chosen} - {""}
    environments = {each: venvs.prepare(each, options.venvs) for each in sorted(names)}
    versions = {each: made.packages or made.reason for each, made in environments.items()}
    results["environments"] = {**results.get("environments", {}), **versions}
    subjects = prepare_subjects(
        scratch, options.models, quick=options.quick, device=options.device, minilm=options.minilm
    )
    subjects = [
        replace(each, counts={name: count for name, count in each.counts.items() if name in options.workloads})
        for each in subjects
    ]
    return peers.measure(
        subjects,
        chosen,
        environments,
        scratch,
        quick=options.quick,
        device=options.device,
        rounds=1 if options.quick else options.rounds,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    models = ("0.6b", "builtin", "minilm")
    parser.add_argument("--quick", action="store_true", help="fewer texts, layers and rounds: a look, not a result")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=SECTIONS,
        default=list(SECTIONS),
        help=f"sections to run, of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--models", nargs="+", choices=models, default=list(models), help="models of the section peers")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        help="workloads of the section peers",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        default=[""],
        help="rows of the section peers with one of these in their names; this project is always one of them",
    )
    parser.add_argument(
        "--rounds", type=at_least_one, default=ROUNDS, metavar="N", help=f"of the section peers ({ROUNDS})"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where the section peers computes")
    parser.add_argument("--minilm", type=Path, metavar="FOLDER", help="real weights of MiniLM instead of its shape")
    parser.add_argument(
        "--venvs",
        type=Path,
        metavar="FOLDER",
        default=venvs.default_folder(),
        help="where the peers' environments are made and kept",
    )
    parser.add_argument("--json", type=writable_file, metavar="FILE", help="also write every figure to FILE")
    parser.add_argument("--show", action="store_true", help="print results/last.json as Markdown, and measure nothing")
    parser.add_argument("--write", action="store_true", help="also write results/last.json and the charts beside it")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--write keeps results, and --quick gives none: leave one of them out")
    names = [peer.name.lower() for peer in peers.peers_for(options.device)]
    for part in options.peers:
        if not any(part.lower() in name for name in names):
            parser.error(f"--peers: no name has {part!r} in it; the names are {', '.join(names)}")
    return options


def machine_line(m: dict[str, Any]) -> str:
    """The machine and the versions, in a sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}; Python {m['python']}, {packages}."
    )


if __name__ == "__main__":
    main()
