"""Ray itself: whether it is installed, a cluster to work in, and its errors in our words."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ..errors import ChromaMLXError, EngineError, MissingPackage

# Of the shared memory in which blocks wait, a worker's share; Ray's own choice is 30 % of the machine.
OBJECTS_A_WORKER: Final = 128 * 2**20
LEAST_OBJECTS: Final = 256 * 2**20
# What Ray does not do for an ingest: report its use to its makers, and warn of a coming change of its defaults.
ENVIRONMENT: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

# How often a cluster that is to grow is asked.
PAUSE_S: Final = 1.0

log: Final = logging.getLogger("chroma_mlx.ray")


def check_ray() -> None:
    """Raises MissingPackage unless Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", "'chroma-mlx[ray]'")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(address: str | None, *, workers: int, cpus: int) -> Iterator[Any]:
    """Ray, connected: to the cluster at `address`, or with None to one on this machine for the time being.

    One that the program is connected to already is used as it is, and left. Raises EngineError where it cannot be.
    """
    import ray

    if ray.is_initialized():
        yield ray
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "configure_logging": True}
    own: dict[str, Any] = {
        "address": "local",
        "num_cpus": workers * cpus,
        "include_dashboard": False,
        "object_store_memory": max(LEAST_OBJECTS, workers * OBJECTS_A_WORKER),
    }
    try:
        ray.init(**quiet, **(own if address is None else {"address": address}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise EngineError(
            f"There is no Ray {where} ({type(error).__name__}: {error}). Start one with `ray start --head` and name "
            "its address, or leave the address out."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_room(nodes: Sequence[Mapping[str, Any]], *, workers: int, cpus: int) -> None:
    """Raises EngineError unless so many workers of so many cores fit into the cluster's `nodes`, as Ray lists them.

    Ray itself waits for ever, without a word, for a worker that fits nowhere.
    """
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    if (room := sum(own // cpus for own in cores)) < workers:
        raise EngineError(
            f"{workers} workers of {cpus} cores each are asked for, and Ray has room for {room}: its machines have "
            f"{', '.join(map(str, cores))} cores. Ask for fewer workers, or for fewer cores of each (--worker-cpus), "
            "or say how long a cluster may take to grow (--room-seconds)."
        )


def wait_for_room(
    nodes: Callable[[], Sequence[Mapping[str, Any]]],
    *,
    workers: int,
    cpus: int,
    limit_s: float,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns once the workers fit into `nodes`, asked again and again; raises what `check_room` does `limit_s` later.

    What a cluster grows by are actors that wait, so these are to be made before. Ray does not say whether it grows.
    """
    until, told = clock() + limit_s, False
    while True:
        try:
            check_room(nodes(), workers=workers, cpus=cpus)
            break
        except EngineError as error:
            left = until - clock()
            if left <= 0:
                raise
            if not told:
                log.warning("%s Waiting for up to %g s.", error, limit_s)
        told = True
        wait(min(left, PAUSE_S))


@contextmanager
def ray_errors(ray: Any) -> Iterator[None]:
    """An error of a worker as it was raised there; of Ray's own EngineError."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ChromaMLXError):
            raise error.cause from error
        raise EngineError(f"A worker failed: {error}") from error
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"Ray ended the work ({type(error).__name__}: {error}). What was written until then stays; once the "
            "workers are well, run the same ingest again: it goes on from there."
        ) from error
