"""What every client that measures shares: the request for a cell, and the loop that hears it through.

The clients are as thin as can be, so that they outrun what they measure; `ceiling.py` shows whether they do.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: Seconds without a word from the kernel before a client gives up. The longest silence that is in order is a
#: kernel signing 100,000 messages on a busy machine.
PATIENCE = 120.0

#: Of each stream message, the bytes that are looked at and kept: its headers and the start of its text.
HEAD = 900

_IDLE = re.compile(rb'"execution_state": ?"idle"')
_ERROR = re.compile(rb'"status": ?"error"')
_NUMBER = re.compile(rb'"text": ?"(\d+)')


class Heard(NamedTuple):
    """What came between a request and its end."""

    #: The first `HEAD` bytes of each stream message.
    heads: list[bytes]
    #: Bytes of all stream messages, whole.
    size: int
    #: When the first and the last of them came, by `time.perf_counter`.
    first: float
    last: float

    def rate(self) -> float:
        """Stream messages per second."""
        return (len(self.heads) - 1) / (self.last - self.first)


def header(msg_type: str) -> dict[str, str]:
    return {
        "msg_id": uuid.uuid4().hex,
        "session": "bench",
        "username": "bench",
        "date": "2026-01-01T00:00:00.000000Z",
        "msg_type": msg_type,
        "version": "5.4",
    }


def execute_request(code: str) -> tuple[bytes, list[bytes]]:
    """The message id as bytes, and header, parent, metadata and content."""
    head = header("execute_request")
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    return head["msg_id"].encode(), [json.dumps(head).encode(), b"{}", b"{}", json.dumps(content).encode()]


def missing(heads: Sequence[bytes], count: int) -> int:
    """How many of the texts that start with the numbers below `count` are in none of the messages.

    Numbers and not a count of messages: one that came twice must not make up for one that never came.
    """
    found = {int(match[1]) for match in map(_NUMBER.search, heads) if match is not None}
    return len(set(range(count)) - found)


class Client:
    """One connection to one kernel."""

    #: The id of the last request.
    msg_id = b""

    def send(self, channel: str, parts: Sequence[bytes]) -> None:
        raise NotImplementedError

    def receive(self) -> bytes:
        """The next message, whole, in whatever layout the connection has.

        Raises `OSError` or `EOFError` if there is none within `PATIENCE`.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def execute(self, code: str, pause: Callable[[], None] | None = None) -> Heard:
        """Run `code` until its reply and its idle are here; `pause()` is called once it is sent."""
        self.msg_id, parts = execute_request(code)
        self.send("shell", parts)
        if pause is not None:
            pause()
        return self.collect(self.msg_id)

    def collect(self, msg_id: bytes) -> Heard:
        """Hear what comes until the reply to `msg_id` and its idle are here.

        Raises `RuntimeError` if the reply tells of an error: what was measured of a cell that failed, or of a
        kernel that died in it, are no figures.
        """
        heads: list[bytes] = []
        size = 0
        first = last = 0.0
        replied = idle = False
        while not (replied and idle):
            message = self.receive()
            head = message[:HEAD]
            if b'"stream"' in head:
                last = time.perf_counter()
                first = first or last
                heads.append(head)
                size += len(message)
            elif msg_id in message[:2000]:
                if b'"execute_reply"' in message[:2000]:
                    if _ERROR.search(message):
                        raise RuntimeError(f"the cell failed: {message.decode(errors='replace')}")
                    replied = True
                elif _IDLE.search(message):
                    idle = True
        return Heard(heads, size, first, last)
