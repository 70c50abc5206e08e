"""The commands of one link that wait for the relay's answer (docs/protocol.md 1.5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..wire import framing, payloads
from ..wire.framing import Kind
from .errors import ControlError


class Controls:
    """Numbers the commands and hands each its answer. `post` sends the bytes of a frame."""

    def __init__(self, post: Callable[[bytes], None]) -> None:
        self._post = post
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._asked: dict[int, bytes] = {}
        self._next = 1
        # The highest that the relay is known to have had.
        self._arrived = 0

    def go_on(self, last: int) -> None:
        """Number on after the last command of another gateway."""
        self._next = last + 1

    def have_arrived(self, last: int) -> bool:
        """Follow a relay that has had the commands up to `last`; whether that is news."""
        is_news = last > self._arrived
        self._arrived = max(last, self._arrived)
        return is_news

    def post_again(self) -> None:
        """Ask again what was not answered; the relay does each number once, and repeats its answer."""
        for frame in self._asked.values():
            self._post(frame)

    async def ask(self, op: str, members: dict[str, Any], within: float) -> None:
        """See `Link.control`."""
        number = self._next
        self._next += 1
        payload = payloads.dump({"id": number, "op": op, **members})
        if len(payload) > framing.MAX_SMALL_PAYLOAD:
            raise ControlError(f"the {op} command is too large: {len(payload)} bytes")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        frame = self._asked[number] = framing.encode(Kind.CONTROL, payload=payload)
        try:
            self._post(frame)
            async with asyncio.timeout(within):
                await future
        except TimeoutError:
            raise ControlError(f"no answer to {op} within {within:g} s") from None
        finally:
            self._waiting.pop(number, None)
            self._asked.pop(number, None)

    def answered(self, answer: dict[str, Any]) -> None:
        """The relay's answer to one of them. Raises `PayloadError`."""
        number = payloads.integer(answer, "id")
        self.have_arrived(number)
        future = self._waiting.get(number)
        if future is None or future.done():
            return  # the asker has given up
        if answer.get("ok") is True:
            future.set_result(None)
        else:
            future.set_exception(ControlError(payloads.text(answer, "error")))

    def fail(self, error: Exception) -> None:
        """No answer will come any more: all that wait get `error`."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()
