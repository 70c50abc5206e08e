"""Which answer each error becomes: the one error type, and the one table from the others to a status.

What a client reads is `{"reason": ..., "message": ...}`: the HTTP reason phrase, and a sentence that says
what happened and what to do. Nothing else of an exception ever reaches a client. The layers below raise
errors of their own, which know nothing of HTTP; their messages are such sentences.

- `DrainingError` is 503 with `Retry-After`: the same request may succeed later.
- `TooManyKernelsError` is 429. Enterprise and Kernel Gateway answer 403 there, which clients show as a
  wrong token; and 503 would have a proxy take a healthy gateway out.
- A kernelspec that the administrator has to mend is 500, with its sentence.
- What a backend refuses is no row: a kernel whose sandbox cannot be made is dead and has the reason.
- What nobody foresaw is 500 and says nothing but the id under which the log has it.
"""

from __future__ import annotations

import dataclasses
import http.client
from collections.abc import Mapping

from tornado import web

from .kernels.errors import (
    BadKernelSpecError,
    DrainingError,
    KernelGoneError,
    KernelStateError,
    NoSuchKernelError,
    NoSuchKernelSpecError,
    TooManyKernelsError,
)


class HttpError(Exception):
    """A refusal, or a failure that is understood: a status and a sentence for the client.

    `message` is sent and logged, so it must never hold a credential. `headers` go out with the
    answer (`Retry-After`, `Allow`).
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    @property
    def reason(self) -> str:
        """The HTTP reason phrase of the status."""
        return reason_phrase(self.status)


#: Seconds after which a client that was refused for want of room may ask again.
RETRY_AFTER = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What an error type becomes. `headers` go out with the answer; the message is the error's own."""

    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


_LATER = {"Retry-After": str(RETRY_AFTER)}

#: The most derived type decides. Every message of these types is a sentence made for the client.
TABLE: Mapping[type[Exception], Row] = {
    NoSuchKernelError: Row(404),
    NoSuchKernelSpecError: Row(404),
    KernelGoneError: Row(404),
    KernelStateError: Row(409),
    TooManyKernelsError: Row(429, _LATER),
    BadKernelSpecError: Row(500),
    DrainingError: Row(503, _LATER),
}

#: Sentences for what tornado refuses by itself; its own words are for a log.
_TORNADO = {
    400: "The request is malformed. Check its path and query for bytes that are not UTF-8.",
    404: "There is nothing at this path. GET /api/spec.yaml lists what there is.",
    405: "This method is not known here. The header Allow lists those that are.",
}


def answer_to(error: BaseException | None, request_id: str) -> HttpError:
    """The answer to `error`; for None, and whatever is not in the table, an opaque 500."""
    if isinstance(error, HttpError):
        return error
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return HttpError(row.status, str(error), row.headers)
    if isinstance(error, web.HTTPError):
        status = error.status_code
        return HttpError(status, _TORNADO.get(status, f"{reason_phrase(status)}."))
    return HttpError(
        500,
        "The gateway failed, and the fault is its own. "
        f"Report it with the lines of its log that name request {request_id}.",
    )


def is_foreseen(error: BaseException | None) -> bool:
    """Whether `error` explains itself, so that a log needs no traceback."""
    return isinstance(error, (HttpError, web.HTTPError, *TABLE))


def reason_phrase(status: int) -> str:
    """The reason phrase that belongs to `status`, as RFC 9110 and its registry name it."""
    return http.client.responses.get(status, "Unknown")


def quoted(value: object, limit: int = 100) -> str:
    """`value` from a client, made safe to repeat in a message or a log line.

    Control characters are escaped and at most `limit` characters are kept, so that a client can neither
    forge a line nor fill one.
    """
    text = str(value)
    if len(text) > limit:
        text = text[:limit] + "..."
    return ascii(text)
