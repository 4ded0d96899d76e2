"""A process beside this one that computes, so that neither holds up the other's Python.

Python runs one thread at a time. A server's event loop, or Chroma, whose writes keep Python to themselves from their
beginning to their end, would make the MLX thread wait at each of its steps; a process has a Python of its own.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from ..errors import EngineError, ForkedProcess
from .mlx_thread import mlx_thread

P = ParamSpec("P")
R = TypeVar("R")
Told = tuple[Callable[..., object], Any, Any]  # a function and its arguments

# What is under way there when the program ends has so long to end; where nobody waits for it, the second.
END_S, DROPPED_S = 5.0, 0.5
# The first descriptor behind standard input, output and error.
AFTER_STREAMS: Final = 3
# The package without its own first lines, which import Chroma: a second and 60 MB that nobody there asks for.
START: Final = (
    "import sys, types; sys.path[:] = {path!r}; package = types.ModuleType({package!r}); "
    "package.__path__ = [{folder!r}]; sys.modules[{package!r}] = package; "
    "from {module} import work; work({descriptor})"
)
PACKAGE_FOLDER: Final = Path(__file__).parent.parent
WORK: Final = f"{__package__}.process_work"


@dataclass(slots=True, eq=False)
class _Running:
    """A process, the way to it, and who waits for its answers, by their jobs' numbers."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    waiting: dict[int, Future[Any]] = field(default_factory=dict)
    calls: set[int] = field(default_factory=set)  # those of `waiting` that `call` sent
    closed: bool = False


class _There(Exception):
    """The traceback of an error in the process, as text: the cause of that error here."""


class EngineProcess:
    """Runs jobs in a process of its own, which is started with the first and ends with this one.

    A job is a function of a module, by its name; what goes to it and what it returns is pickled. Those of `submit` and
    `run` run on the MLX thread there, one after another. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of all below, and of what is sent
        self._running: _Running | None = None
        self._numbers = itertools.count()
        self._mlx_memory = (0, 0)
        self._forked = self._registered = self._ended = False
        self._is_here = False
        self._told: deque[Told] = deque()

    @property
    def can_start(self) -> bool:
        """Whether this program has a Python to start it with."""
        return bool(sys.executable) and not getattr(sys, "frozen", False)

    def is_here(self) -> None:
        """This is that process: what is to run there runs here."""
        self._is_here = True

    def tell(self, job: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """In that process: has `job`, a function of a module, called in the one that started it.

        It goes there with the next answer, in whose place an error that it raises comes.
        """
        self._told.append((job, args, kwargs))

    def take_told(self) -> list[Told]:
        """In that process: what is to be called in the one that started it."""
        told: list[Told] = []
        with suppress(IndexError):
            while True:
                told.append(self._told.popleft())
        return told

    @property
    def pid(self) -> int | None:
        """The number of the process, if it runs."""
        running = self._running
        return None if running is None else running.process.pid

    @property
    def mlx_memory(self) -> tuple[int, int]:
        """The bytes that MLX has in use there, and those that it keeps for reuse, when it last answered."""
        return (0, 0) if self._running is None else self._mlx_memory

    def submit(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Sends a job. Its future gives what it returned, or raises its error, or EngineError where the process died.

        Raises ForkedProcess in a child of the process that used it, EngineError where none can be started.
        """
        return self._send(False, job, args, kwargs)

    def call(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As `submit`, of a job that waits for others there: on a thread for these, one after another."""
        return self._send(True, job, args, kwargs)

    def drop(self, futures: Collection[Future[Any]] | None = None, error: BaseException | None = None) -> None:
        """Whoever waits for these calls, None for all, gets `error`, CancelledError where there is none; what was not
        begun there is not done."""
        with self._lock:
            running = self._running
            if running is None:
                return
            # Those that are answered meanwhile leave the set.
            calls = list(running.calls)
            gone = {number for number in calls if futures is None or running.waiting.get(number) in futures}
            left = [future for number in gone if (future := running.waiting.pop(number, None)) is not None]
            running.calls -= gone
            with suppress(OSError):  # it has died
                self._write(running, pickle.dumps(gone))
        for future in left:
            future.set_exception(error or CancelledError())

    def _send(self, waits: bool, job: Callable[..., R], args: Any, kwargs: Any) -> Future[R]:
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()  # it cannot be taken back
        number = next(self._numbers)
        message = pickle.dumps((number, waits, job, args, kwargs), pickle.HIGHEST_PROTOCOL)
        with self._lock:
            while True:
                fresh = self._running is None
                running = self._running = self._running or self._start()
                running.waiting[number] = future
                if waits:
                    running.calls.add(number)
                try:
                    self._write(running, message)
                    return future
                except OSError as error:  # it died before; what reads from it tells the others
                    running.waiting.pop(number, None)
                    self._running = None
                    if fresh:
                        raise EngineError(f"The engine's process ended as soon as it was started: {error}.") from error

    def _write(self, running: _Running, message: bytes) -> None:
        """Sends a message whole, or ends the process. Raises OSError where it has died. The lock is held."""
        try:
            running.connection.send_bytes(message)
        except OSError:
            raise
        except BaseException:  # Ctrl-C, say: there the next message would be taken for the rest of this one
            if self._running is running:
                self._running = None
            running.process.kill()
            raise

    def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Sends a job and waits for it. Raises as `submit` and its future do."""
        if self._is_here:
            return mlx_thread.run(job, *args, **kwargs)
        return self.submit(job, *args, **kwargs).result()

    def close(self, *, within_s: float | None = None) -> None:
        """Ends the process when it has done what it was given; the next job starts another.

        Where that takes longer than `within_s` it is killed, and who still waits gets EngineError.
        """
        with self._lock:
            running, self._running = self._running, None
            if running is None:
                return
            running.closed = True
            with suppress(OSError):  # it has died
                self._write(running, pickle.dumps(None))
        try:
            running.process.wait(within_s)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()

    def close_idle(self) -> None:
        """Ends the process if nobody waits for an answer of it."""
        running = self._running
        if running is not None and not running.waiting:
            self.close()

    def forget(self) -> None:
        """In a forked child: the process is its parent's, and so is whoever waits."""
        self._lock = threading.Lock()
        if self._running is not None:
            self._forked = True
            self._running.connection.close()  # or the process would not see that the parent is gone

    def _start(self) -> _Running:
        if self._forked:
            raise ForkedProcess(
                "The engine's process is that of the process which this one was forked from. Start workers with the "
                "'spawn' or 'forkserver' method, or fork before the first text is embedded."
            )
        if self._ended:
            raise EngineError("The interpreter is shutting down, so no more texts can be embedded.")
        if not self.can_start:
            raise EngineError("This program has no Python of its own to start another with. Set own_process to False.")
        if not self._registered:
            atexit.register(self._end)
            self._registered = True
        ours, theirs = _pipe()
        path = [each for each in sys.path if isinstance(each, str)]
        start = START.format(
            path=path,
            package=__name__.partition(".")[0],
            folder=str(PACKAGE_FOLDER),
            module=WORK,
            descriptor=theirs.fileno(),
        )
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            ours.close()
            raise EngineError(f"The engine's process cannot be started: {error}.") from error
        finally:
            theirs.close()
        running = _Running(process, ours)
        try:
            threading.Thread(target=self._read, args=(running,), name="chroma-mlx-answers", daemon=True).start()
        except RuntimeError as error:
            ours.close()  # which it ends at
            process.wait()
            raise EngineError(f"The engine's process cannot be waited for: {error}.") from error
        return running

    def _read(self, running: _Running) -> None:
        """Gives every answer to who waits for it, until the process ends."""
        with suppress(Exception):  # most of all EOFError; after any other nothing could be read either
            while self._pass_on(running):
                pass
        with self._lock:
            if self._running is running:
                self._running = None
            left = [running.waiting.pop(number) for number in list(running.waiting)]
        running.connection.close()
        status = running.process.wait()
        for future in left:
            future.set_exception(_died(status, closed=running.closed))

    def _pass_on(self, running: _Running) -> bool:
        number, value, error, there, told, self._mlx_memory = running.connection.recv()
        for job, args, kwargs in told:
            try:
                job(*args, **kwargs)
            except Exception as raised:  # a warning that is an error here
                error = error or raised
        running.calls.discard(number)
        if (future := running.waiting.pop(number, None)) is None:
            return True  # nobody waits for it any more
        if error is None:
            future.set_result(value)
        else:
            error.__cause__ = _There(there) if there else error.__cause__
            future.set_exception(error)
        return True  # and hold nothing of it meanwhile

    def _end(self) -> None:
        """At the end of the program: after the MLX thread, whose last pass may be there."""
        mlx_thread.rest()
        with self._lock:
            self._ended = True
        if not self._forked:
            running = self._running
            # What nobody waits for may be under way.
            self.close(within_s=END_S if running is not None and running.waiting else DROPPED_S)


def _died(status: int, *, closed: bool) -> EngineError:
    if closed:
        return EngineError("The engine's process was ended before it had answered.")
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    return EngineError(
        f"The engine's process ended {how}. If memory ran out, lower batch_tokens or max_tokens, or take a smaller "
        "model. The next call starts it again."
    )


def _pipe() -> tuple[Connection, Connection]:
    """Both ends, of which none has the place of a standard stream that the program has closed."""
    import fcntl

    ends = Pipe()
    ours, theirs = (Connection(fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, AFTER_STREAMS)) for end in ends)
    for end in ends:
        end.close()
    return ours, theirs


engine_process: Final = EngineProcess()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=engine_process.forget)
