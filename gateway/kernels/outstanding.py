"""The requests of one link that have no answer yet: the gateway ends them where the relay cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

#: Bytes of all headers that are kept for one link; beyond, the oldest request is no longer told.
MAX_HEADERS = 4 * 1024 * 1024
#: Bytes of one request's header. A longer one is no client's, and its sender is not told.
MAX_HEADER = 64 * 1024
#: What a request costs beside its header, in bytes.
_COST = 256


@dataclasses.dataclass(frozen=True)
class Request:
    """A client's request, as far as it takes to answer it in a kernel's place."""

    session_id: str
    channel: str
    header: bytes

    @property
    def wants_answer(self) -> bool:
        """Whether somebody waits, and can be told."""
        return self.channel in ("shell", "control") and len(self.header) <= MAX_HEADER

    @property
    def size(self) -> int:
        """Bytes that keeping it takes."""
        return len(self.header) + _COST


class Outstanding:
    """Requests by the number that the link gave them, within `MAX_HEADERS`."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._size = 0

    def add(self, number: int, request: Request) -> None:
        """It is on its way."""
        if number in self._requests:
            self._drop(number)
        self._requests[number] = request
        self._size += request.size
        while self._size > MAX_HEADERS:
            self._drop(next(iter(self._requests)))

    def done(self, numbers: Iterable[int]) -> None:
        """These have their answer; numbers that are not known are a relay's invention."""
        for number in numbers:
            if number in self._requests:
                self._drop(number)

    def keep_after(self, number: int) -> None:
        """Forget the requests up to this number."""
        for known in [known for known in self._requests if known <= number]:
            self._drop(known)

    def take_all(self) -> list[Request]:
        """Everything, oldest first; nothing is left."""
        requests = [*self._requests.values()]
        self._requests.clear()
        self._size = 0
        return requests

    def _drop(self, number: int) -> None:
        self._size -= self._requests.pop(number).size
