"""A process beside this one that computes, so that neither holds up the other's Python.

Python runs one thread at a time. A server's event loop, or Chroma, whose writes keep Python to themselves from their
beginning to their end, would make the MLX thread wait at each of its steps; a process has a Python of its own.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, ParamSpec, TypeVar

from ..errors import EngineError, ForkedProcess
from .mlx_thread import mlx_memory

P = ParamSpec("P")
R = TypeVar("R")

# What is under way when the program ends has so long to end.
END_S: Final = 5.0
START: Final = "import sys; sys.path[:] = {path!r}; from {module} import work; work({descriptor})"


class EngineProcess:
    """Runs jobs one after another in a process of its own, which is started with the first and ends with this one.

    A job is a function of a module, by its name; what goes to it and what it returns is pickled. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of all below, and of what is sent
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._pid = os.getpid()
        self._mlx_memory = (0, 0)

    @property
    def mlx_memory(self) -> tuple[int, int]:
        """The bytes that MLX has in use there, and those that it keeps for reuse, when it last answered."""
        return (0, 0) if self.pid is None else self._mlx_memory

    @property
    def pid(self) -> int | None:
        """The number of the process, if it runs."""
        process = self._process
        return None if process is None or self._pid != os.getpid() else process.pid

    def submit(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Sends a job. Its future gives what it returned, or raises its error, or EngineError where the process died.

        Raises ForkedProcess where the process is that of this one's parent.
        """
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()  # it cannot be taken back
        with self._lock:
            connection = self._connect()
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                connection.send((number, job, args, kwargs))
            except OSError:  # it died, and what reads from it says so to everybody who waits
                if self._waiting.pop(number, None) is not None:
                    future.set_exception(_died(None))
        return future

    def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Sends a job and waits for it. Raises as `submit` and its future do."""
        return self.submit(job, *args, **kwargs).result()

    def close(self) -> None:
        """Ends the process; the next job starts another. Who still waits gets EngineError."""
        with self._lock:
            process, connection = self._process, self._connection
            self._process = self._connection = None
            if process is None or connection is None or self._pid != os.getpid():
                return
            atexit.unregister(self.close)
            with suppress(OSError):  # it has died
                connection.send(None)  # what reads from it closes it when the process has ended
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _connect(self) -> Connection[Any, Any]:
        if self._connection is not None:
            if self._pid != os.getpid():
                raise ForkedProcess(
                    "The engine's process is that of the process which this one was forked from. Start workers with "
                    "the 'spawn' or 'forkserver' method, or fork before the first text is embedded."
                )
            return self._connection
        self._pid = os.getpid()
        ours, theirs = Pipe()
        start = START.format(path=sys.path, module=__name__, descriptor=theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._process, self._connection, self._waiting = process, ours, {}
        threading.Thread(
            target=self._read, args=(ours, process, self._waiting), name="chroma-mlx-answers", daemon=True
        ).start()
        atexit.register(self.close)
        return ours

    def _read(
        self, connection: Connection[Any, Any], process: subprocess.Popen[bytes], waiting: dict[int, Any]
    ) -> None:
        """Gives every answer to who waits for it, until the process ends."""
        while True:
            try:
                number, value, error, self._mlx_memory = connection.recv()
            except (EOFError, OSError):
                break
            future = waiting.pop(number)
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        with self._lock:
            if self._connection is connection:  # it ended by itself
                self._process = self._connection = None
                atexit.unregister(self.close)
            connection.close()
            left = [waiting.pop(number) for number in list(waiting)]
        status = process.wait()
        for future in left:
            future.set_exception(_died(status))


def _died(status: int | None) -> EngineError:
    said = ""
    if status is not None and status < 0:
        said = f" by signal {signal.Signals(-status).name}"
    elif status is not None:
        said = f" with exit status {status}"
    return EngineError(
        f"The engine's process ended{said}. If memory ran out, lower batch_tokens or max_tokens, or take a smaller "
        "model. The next call starts it again."
    )


def work(descriptor: int) -> None:
    """What the process does: every job that comes, until the other side is gone."""
    # Ctrl-C and a service manager's SIGTERM go to both; who started this one says when it is to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(descriptor)
    answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send() -> None:
        # The other side may be busy: the next job does not wait until it has read this one's answer.
        while (answer := answers.get()) is not None:
            try:
                connection.send_bytes(answer)
            except OSError:
                return  # nobody is there any more

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    while True:
        try:
            if (asked := connection.recv()) is None:
                break
        except (EOFError, OSError):
            break
        number, job, args, kwargs = asked
        answers.put(_answer(number, job, args, kwargs))
        del asked, job, args, kwargs  # the next wait may be long
    answers.put(None)


def _answer(number: int, job: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    try:
        return pickle.dumps((number, job(*args, **kwargs), None, mlx_memory()), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        error.__cause__ = error.__context__ = None  # they do not travel
        try:
            return pickle.dumps((number, None, error, mlx_memory()), pickle.HIGHEST_PROTOCOL)
        except Exception:
            said = "".join(traceback.format_exception(error))
            return pickle.dumps((number, None, EngineError(f"The engine's process failed: {said}"), mlx_memory()))


engine_process: Final = EngineProcess()
