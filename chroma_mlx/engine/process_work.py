"""What the engine's process does: see own_process.py, which starts it."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TextIO

from ..errors import EngineError
from .mlx_thread import mlx_memory, mlx_thread, on_mlx
from .own_process import Told, engine_process


def work(descriptor: int) -> NoReturn:
    """What the process does: every job that comes, until it is told to end, or the other side is gone."""
    # Ctrl-C and a service manager's SIGTERM go to both; who started this one says when it is to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(descriptor)
    engine_process.is_here()
    warnings.simplefilter("default")  # the other side's filters say what becomes of them
    warnings.showwarning = _show_there
    dropped: set[int] = set()
    calls = ThreadPoolExecutor(1, thread_name_prefix="chroma-mlx-call")
    answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send() -> None:
        # The other side may be busy: the next job does not wait until it has read this one's answer.
        with suppress(OSError):  # it is gone
            while (answer := answers.get()) is not None:
                connection.send_bytes(answer)

    def do(number: int, job: Callable[[], Any]) -> None:
        answers.put(_answer(number, job))

    def do_call(number: int, job: Callable[[], Any]) -> None:
        if number not in dropped:
            do(number, job)

    def do_on_mlx(number: int, job: Callable[[], Any]) -> None:
        do(number, partial(on_mlx, job))

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    with suppress(EOFError, OSError):  # nobody waits any more for what is under way
        while (asked := connection.recv()) is not None:
            if isinstance(asked, set):
                dropped |= asked
                continue
            number, waits, job, args, kwargs = asked
            if waits:
                calls.submit(do_call, number, partial(job, *args, **kwargs))
            else:
                mlx_thread.submit(do_on_mlx, number, partial(job, *args, **kwargs))
            del asked, job, args, kwargs  # the next wait may be long
        calls.shutdown()  # when all are answered
        mlx_thread.submit(answers.put, None)
        sending.join()
    os._exit(0)


def _answer(number: int, job: Callable[[], Any]) -> bytes:
    told: list[Told] = []

    def pack(value: Any, error: BaseException | None = None, there: str = "") -> bytes:
        return pickle.dumps((number, value, error, there, told, mlx_memory()), pickle.HIGHEST_PROTOCOL)

    try:
        value = job()
        told = engine_process.take_told()
        return pack(value)
    except BaseException as error:
        told += engine_process.take_told()
        there = f"\n{traceback.format_exc()}"
        error.__cause__ = error.__context__ = None  # they do not travel
        try:
            answer = pack(None, error, there)
            pickle.loads(answer)  # some errors can be packed and not unpacked
            return answer
        except Exception:
            told = []  # which may be what cannot be packed
            return pack(None, EngineError(f"The engine's process failed: {type(error).__name__}: {error}"), there)


def _show_there(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In the process, in place of warnings.showwarning: nobody would look for a warning here."""
    try:
        pickle.dumps(category)
    except Exception:  # one of a function's own
        category = UserWarning
    engine_process.tell(_warn, str(message), category, filename, lineno)


def _warn(message: str, category: type[Warning], file: str, line: int) -> None:
    """Warns here as there: once a place, if the filters here say so, whichever side was first to warn."""
    modules = (getattr(module, "__dict__", {}) for module in list(sys.modules.values()))
    of_place: dict[str, Any] = next((names for names in modules if names.get("__file__") == file), {})
    warnings.warn_explicit(message, category, file, line, registry=of_place.setdefault("__warningregistry__", {}))
