"""This project against each peer, on the same weights and texts: the section that the others stand beside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints import Subject
from common import ChildFailed, commit, in_child, medians
from venvs import Environment
from workloads import make_workloads, write_workloads

OURS = "this project"
LONGEST_S, QUICK_LONGEST_S = 180.0, 15.0
SAME = 0.9  # below this cosine a peer computes something else
PROBE = 8
EVERY = ("0.6b", "builtin", "minilm")
CAUSAL = EVERY[:2]  # mlx-lm has no BERT


@dataclass(frozen=True, kw_only=True)
class PeerSpec:
    """A row: how the peer is loaded (`kind` and `options` of adapters.py), from which form of the weights, and where.

    `probe` is how many short texts it gets before the timing; `slow` is one that computes some tokens a second, on
    texts of any length; `models` are the subjects it can compute.
    """

    name: str
    kind: str
    form: str
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    probe: int = PROBE
    slow: bool = False
    project: bool = False
    models: tuple[str, ...] = EVERY


def peers_for(device: str, parts: Sequence[str] = ("",)) -> list[PeerSpec]:
    """The rows for a CPU or a GPU: this project, which the others are held against, and those with one of `parts` in
    their names."""
    others = _on_gpu() if device == "gpu" else _on_cpu()
    wanted = [peer for peer in others if any(part.lower() in peer.name.lower() for part in parts)]
    return [PeerSpec(name=OURS, kind="ours", form="own", project=True), *wanted]


def _on_cpu() -> list[PeerSpec]:
    kinds = (("MLX as it comes (mlx-lm)", "mlx_lm", CAUSAL), ("mlx-embeddings", "mlx_embeddings", EVERY))
    as_they_come = [
        PeerSpec(
            name=f"{name}, {form}",
            kind=kind,
            form=form,
            environment="mlx",
            models=models,
            slow=True,
            # Packed weights are multiplied by a scalar loop: less than a token a second, so one text of 12.
            probe=1 if form == "packed" else PROBE,
        )
        for name, kind, models in kinds
        for form in ("packed", "bfloat16", "float32")
    ]
    # Batches of 8 as users write them, and no padding at all, which is the best for them on a CPU.
    on_our_blas = [
        PeerSpec(
            name=f"{kind.replace('_', '-')} on our BLAS, float32, batch {batch}",
            kind=kind,
            form="float32",
            environment="mlx",
            models=models,
            options={"fast": True, "batch": batch},
        )
        for _, kind, models in kinds
        for batch in (1, 8)
    ]
    return [*as_they_come, *on_our_blas, *_torch(batches=(1, 32))]


def _on_gpu() -> list[PeerSpec]:
    environment = "mlx" if sys.platform == "darwin" else "mlx-cuda"
    return [
        PeerSpec(name=f"{OURS}, bfloat16", kind="ours", form="bfloat16", project=True, models=("0.6b",)),
        *(
            PeerSpec(
                name=f"{kind.replace('_', '-')}, {form}", kind=kind, form=form, environment=environment, models=CAUSAL
            )
            for kind in ("mlx_lm", "mlx_embeddings")
            for form in ("packed", "bfloat16")
        ),
        *_torch(batches=(32, 128)),
    ]


def _torch(batches: tuple[int, ...]) -> list[PeerSpec]:
    return [
        *(
            PeerSpec(
                name=f"sentence-transformers, {dtype}, batch {batch}",
                kind="sentence_transformers",
                form="float32",
                environment="torch",
                options={"dtype": dtype, "batch": batch},
            )
            for dtype in ("float32", "bfloat16")
            for batch in batches
        ),
        PeerSpec(
            name="Chroma's SentenceTransformerEmbeddingFunction", kind="chroma", form="float32", environment="torch"
        ),
    ]


def measure(
    subjects: list[Subject],
    peers: list[PeerSpec],
    environments: dict[str, Environment],
    scratch: Path,
    *,
    quick: bool,
    device: str,
    rounds: int,
) -> dict[str, Any]:
    """Each of `peers`, this project first, on every model and workload, in rounds."""
    results: dict[str, Any] = {}
    for subject in subjects:
        folder = scratch / f"texts-{subject.name}"
        folder.mkdir()
        works = make_workloads(subject.forms["float32"], subject.counts, subject.limit)
        write_workloads(folder / "texts.json", subject.forms["float32"], works)
        able = [peer for peer in peers if subject.name in peer.models]
        made = [
            _round(subject, able, environments, folder, quick=quick, device=device, turn=turn) for turn in range(rounds)
        ]
        results[subject.name] = {
            "title": subject.title,
            "workloads": {work.name: work.title for work in works},
            "peers": _combined(made),
            "rounds": made,
        }
    return results


def _round(
    subject: Subject,
    peers: list[PeerSpec],
    environments: dict[str, Environment],
    folder: Path,
    *,
    quick: bool,
    device: str,
    turn: int,
) -> dict[str, Any]:
    """One round: {peer: {"reason": …} or {workload: figures}}.

    This project is run before the others and behind them, so that its rate is that of the round's whole time;
    the others follow one another, in every other round the last first.
    """

    def run(peer: PeerSpec) -> dict[str, Any]:
        environment = environments.get(peer.environment, Environment(python=sys.executable))
        reason = _left_out(peer, subject, quick) or environment.reason
        longest_s = QUICK_LONGEST_S if quick else LONGEST_S
        return {"reason": reason} if reason else _run(peer, subject, environment.python, folder, device, longest_s)

    ours, *others = peers
    first = run(ours)
    found = {peer.name: run(peer) for peer in others[:: -1 if turn % 2 else 1]}
    again = first if quick else run(ours)
    row = {ours.name: {work: medians([first[work], again[work]]) for work in first}}
    row |= {peer.name: found[peer.name] for peer in others}
    _set_ratios(row)
    return row


def _left_out(peer: PeerSpec, subject: Subject, quick: bool) -> str:
    """Why a peer is not run on a model, or ""."""
    if peer.form not in subject.forms:
        return "this model has no such weights"
    if quick and peer.probe == 1 and subject.name == "0.6b":
        return "left out of a quick run: ten tokens take it most of a minute"
    return ""


def _run(peer: PeerSpec, subject: Subject, python: str, folder: Path, device: str, longest_s: float) -> dict[str, Any]:
    """A peer's figures by workload, or why it failed. This project may not."""
    try:
        found = in_child(
            "measure.run",
            python=python,
            project=peer.project,
            kind=peer.kind,
            folder=subject.forms[peer.form],
            device=device,
            limit=subject.limit,
            options=peer.options,
            texts=str(folder / "texts.json"),
            workloads=list(subject.counts),
            vectors=str(folder),
            write=peer.name == OURS,
            flops=subject.flops,
            unasked_flops=subject.unasked_flops,
            pair_flops=subject.pair_flops,
            causal=subject.causal,
            longest_s=longest_s,
            probe=peer.probe,
            slow=peer.slow,
        )
    except ChildFailed as error:
        if peer.name == OURS:
            raise
        return {"reason": f"it failed: {error.reason}"}
    shared = {"commit": commit(), **{key: value for key, value in found.items() if key != "workloads"}}
    return {name: {**shared, **figures} for name, figures in found["workloads"].items()}


def _set_ratios(row: dict[str, Any]) -> None:
    """Of each peer's figures, how many times as many texts a second this project has in the round.

    `many_ratio` is the same with what was computed for the peer over more texts; this project's rate is as measured.
    """
    for figures in row.values():
        for name, work in figures.items():
            if name == "reason":
                continue
            ours = row[OURS][name]
            work["ratio"] = ours["texts_per_s"] / work["texts_per_s"]
            if "many_tokens_per_s" in work:
                work["many_ratio"] = ours["tokens_per_s"] / work["many_tokens_per_s"]


def _combined(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, with the lowest and highest ratio; a reason where a round has one."""
    combined: dict[str, Any] = {}
    for name in rounds[0]:
        reason = next((row[name]["reason"] for row in rounds if "reason" in row[name]), None)
        if reason:
            combined[name] = {"reason": reason}
            continue
        combined[name] = {}
        for work in rounds[0][name]:
            rows = [row[name][work] for row in rounds]
            ratios = [row["ratio"] for row in rows]
            combined[name][work] = {
                **medians(rows),  # a round that was only estimated has fewer figures than one that was run
                "estimated": any(row["estimated"] for row in rows),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
    return combined
