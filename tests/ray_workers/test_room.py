"""Workers that fit nowhere are refused, since Ray would wait for them for ever."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chroma_mlx.errors import EngineError
from chroma_mlx.ray.cluster import check_room, wait_for_room


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


class Growing:
    """A cluster that has a machine more after each of so many pauses, and a clock that these move."""

    def __init__(self, *, machines: int) -> None:
        self.machines, self.now = machines, 0.0

    def nodes(self) -> list[dict[str, Any]]:
        return [node(4)] * min(self.machines, 1 + round(self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def room(self, *, workers: int, limit_s: float) -> None:
        wait_for_room(self.nodes, workers=workers, cpus=4, limit_s=limit_s, wait=self.wait, clock=lambda: self.now)


def test_a_cluster_that_grows_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    growing = Growing(machines=3)
    with caplog.at_level(logging.WARNING, logger="chroma_mlx.ray"):
        growing.room(workers=3, limit_s=60.0)
    assert growing.now == 2.0
    [said] = caplog.messages
    assert "Ray has room for 1: its machines have 4 cores." in said
    assert said.endswith("Waiting for up to 60 s.")


@pytest.mark.parametrize("limit_s", [0.0, 7.5])
def test_one_that_does_not_grow_is_refused_after_that_time(limit_s: float) -> None:
    growing = Growing(machines=3)
    with pytest.raises(EngineError, match=r"has room for .*--room-seconds"):
        growing.room(workers=4, limit_s=limit_s)
    assert growing.now == limit_s
