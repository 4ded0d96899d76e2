"""Workers that fit nowhere are refused, since Ray would wait for them for ever."""

from __future__ import annotations

from typing import Any

import pytest

from chroma_mlx.errors import EngineError
from chroma_mlx.ray.cluster import check_room


def node(cpus: float, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "memory": 1e9}}


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([node(3)], 2, 4),
        ([node(4)], 8, 1),
        ([node(3), node(3)], 2, 4),
        ([node(4), node(4, alive=False)], 2, 4),
        ([], 1, 1),
    ],
)
def test_workers_that_fit_nowhere_are_refused(nodes: list[dict[str, Any]], workers: int, cpus: int) -> None:
    with pytest.raises(
        EngineError, match=f"{workers} workers of {cpus} cores each are asked for, and Ray has room for"
    ):
        check_room(nodes, workers=workers, cpus=cpus)


def test_workers_that_fit_are_taken() -> None:
    head: dict[str, Any] = {"Alive": True, "Resources": {"memory": 1e9}}
    check_room([head, node(4), node(9)], workers=3, cpus=4)
    with pytest.raises(EngineError, match="has room for 3: its machines have 0, 4, 9 cores"):
        check_room([head, node(4), node(9)], workers=4, cpus=4)
