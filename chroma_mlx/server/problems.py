"""What an error is to a client: one table for every protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..errors import (
    CheckpointError,
    ChromaMLXError,
    ConfigError,
    DeadlineExceeded,
    DownloadError,
    InputError,
    MissingPackage,
    ModelNotFound,
    QueueFull,
    SchedulerClosed,
    TextTooLong,
)
from .service import Misconfigured, RequestTooLarge, SettingRefused, UnknownModel

CLIENT_GONE: Final = 499  # nobody reads it; the log and the numbers have it
# How long a client is told to stay away where the engine does not know better.
LATER_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An HTTP status, a word that programs can compare, and a sentence for people.

    `field` is what of the request it is about; after `retry_after_s` the same request may be answered.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, as HTTP has it, and in milliseconds, which some clients read."""
        if self.retry_after_s is None:
            return {}
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
        }


def explain(error: BaseException, texts_field: str = "texts") -> Problem:
    """What is to be said of an error; of one that nobody foresaw no more than that it happened."""
    message = str(error)
    if isinstance(error, QueueFull):
        return Problem(status=503, code="overloaded", message=error.reason, retry_after_s=error.retry_after_s)
    if isinstance(error, SchedulerClosed):
        return Problem(status=503, code="stopping", message="The server is stopping.", retry_after_s=LATER_S)
    if isinstance(error, DeadlineExceeded):
        return Problem(status=504, code="deadline_exceeded", message=message)
    if isinstance(error, UnknownModel):
        return Problem(status=404, code="model_not_found", message=message, field="model")
    if isinstance(error, RequestTooLarge):
        return Problem(status=413, code="request_too_large", message=message, field=texts_field)
    if isinstance(error, TextTooLong):
        return Problem(status=413, code="text_too_long", message=message, field=_place(texts_field, error.index))
    if isinstance(error, InputError):
        return Problem(status=422, code="invalid_text", message=message, field=_place(texts_field, error.index))
    if isinstance(error, SettingRefused):
        return Problem(status=422, code="invalid_setting", message=message, field=error.field)
    if isinstance(error, ConfigError | Misconfigured):
        message = "The server's own configuration does not fit; its log says how."
        return Problem(status=500, code="misconfigured", message=message)
    if isinstance(error, DownloadError | ModelNotFound | CheckpointError | MissingPackage):
        return Problem(status=503, code="model_unavailable", message=message, retry_after_s=LATER_S)
    if isinstance(error, ChromaMLXError):
        return Problem(status=500, code="engine_error", message=message)
    return Problem(status=500, code="internal_error", message="The server failed; its log says how.")


def _place(field: str, index: int | None) -> str:
    return field if index is None else f"{field}[{index}]"
