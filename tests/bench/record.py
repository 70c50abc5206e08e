"""The values of all rounds as they come, and word of what is being measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from . import ceiling, measures
from .client import Client
from .targets import Target
from .websocket import WebSocketClient

#: {target: {figure: values of all rounds}}
Values = dict[str, dict[str, list[float]]]


class Record:
    """`values` fills as it goes on."""

    def __init__(self) -> None:
        self.values: Values = {}
        #: Which round it is, in words.
        self.announced = ""
        self._began = time.monotonic()

    def note(self, name: str, prefix: str = "", **measured: float | Sequence[float]) -> None:
        """What was measured of the target of that name."""
        for figure, value in measured.items():
            values = self.values.setdefault(name, {}).setdefault(prefix + figure, [])
            values.extend([value] if isinstance(value, int | float) else value)

    def tell(self, what: str, name: str) -> None:
        """What is measured next, and of which target."""
        elapsed = time.monotonic() - self._began
        print(f"{elapsed:4.0f} s  {self.announced}: {what}: {name}", file=sys.stderr, flush=True)

    def round_trips(self, target: Target, protocol: str, client: Client) -> None:
        self.note(target.name, f"{protocol}_", round_trip=measures.round_trips(client))

    def flood(self, target: Target, protocol: str, client: Client, count: int) -> None:
        """A flood of `count` messages, and the client by itself on the same bytes."""
        if isinstance(client, WebSocketClient):
            client.start_tape()
        self.note(target.name, f"{protocol}_flood_", **measures.flood(target, client, count))
        if isinstance(client, WebSocketClient):
            pace = ceiling.play(client.take_tape())
            self.note(target.name, f"{protocol}_client_", flood_rate=pace.messages)

    def big_output(self, target: Target, protocol: str, client: Client) -> None:
        """Large outputs, and the client by itself on the same bytes."""
        if isinstance(client, WebSocketClient):
            client.start_tape()
        self.note(target.name, f"{protocol}_", big_output=measures.big_output(client))
        if isinstance(client, WebSocketClient):
            pace = ceiling.play(client.take_tape())
            self.note(target.name, f"{protocol}_client_", big_output=pace.bytes)
