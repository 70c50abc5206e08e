"""The rounds: every measure of every target, in turn and again, so that a busy minute hits all alike.

What is compared is measured back to back: a measure goes through all targets before the next one begins.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from . import ceiling, measures
from .client import Client
from .figures import PROTOCOLS
from .targets import Bare, Ours, Server, Target
from .websocket import WebSocketClient

#: {target: {figure: values of all rounds}}
Values = dict[str, dict[str, list[float]]]

#: Cold starts of a round: they are what varies most.
STARTS = 3


class Rounds:
    """`values` fills as `run` goes on."""

    def __init__(self, bare: Bare, ours: Ours, peers: Sequence[Server]) -> None:
        self.ours = ours
        self.servers: tuple[Server, ...] = (ours, *peers)
        self.targets: tuple[Target, ...] = (bare, *self.servers)
        self.values: Values = {}
        self.announced = ""
        self.began = time.monotonic()

    def run(self, count: int) -> Values:
        """The servers of all targets have to be running; fresh ones are started besides."""
        for number in range(1, count + 1):
            self.announced = f"round {number} of {count}"
            for _ in range(STARTS):
                for target in self.targets:
                    self._tell("cold start", target)
                    self._note(target.name, cold_start=measures.cold_start(target))
            for protocol in PROTOCOLS:
                self._traffic(protocol)
            self._slow_readers()
            for server in self.servers:
                self._tell("20 kernels", server)
                with server.fresh() as fresh:
                    self._note(server.name, "twenty_", **measures.twenty_kernels(fresh))
        return self.values

    def _traffic(self, protocol: str) -> None:
        """Round trips, floods and large outputs, of the bare kernel too in what it speaks.

        Each on a kernel of its own: a client that waits for its turn answers no pings, and is dropped.
        """
        for what, measure in (
            ("round trips", self._round_trips),
            ("flood", self._flood),
            ("output of 10 MiB", self._big_output),
        ):
            for target in self.targets:
                spoken = protocol if protocol in target.protocols else target.protocols[0]
                self._tell(f"{spoken} {what}", target)
                with target.kernel(spoken) as client:
                    measure(target, spoken, client)

    def _round_trips(self, target: Target, protocol: str, client: Client) -> None:
        self._note(target.name, f"{protocol}_", round_trip=measures.round_trips(client))

    def _flood(self, target: Target, protocol: str, client: Client) -> None:
        count = measures.FLOOD if target is self.ours else measures.FLOOD_OF_OTHERS
        if isinstance(client, WebSocketClient):
            client.start_tape()
        self._note(target.name, f"{protocol}_flood_", **measures.flood(target, client, count))
        if isinstance(client, WebSocketClient):
            pace = ceiling.play(client.take_tape())
            self._note(target.name, f"{protocol}_client_", flood_rate=pace.messages)

    def _big_output(self, target: Target, protocol: str, client: Client) -> None:
        if isinstance(client, WebSocketClient):
            client.start_tape()
        self._note(target.name, f"{protocol}_", big_output=measures.big_output(client))
        if isinstance(client, WebSocketClient):
            pace = ceiling.play(client.take_tape())
            self._note(target.name, f"{protocol}_client_", big_output=pace.bytes)

    def _slow_readers(self) -> None:
        """Each on a server that has done nothing else, whose memory nothing else has stretched before.

        In one protocol: what waits for a slow client is the same for all.
        """
        for size, text in measures.SLOW_TEXTS.items():
            for server in self.servers:
                self._tell(f"slow reader of {size}", server)
                with server.fresh() as fresh, fresh.kernel() as client:
                    self._note(server.name, f"slow_{size}_", **measures.slow_reader(fresh, client, text))

    def _note(self, name: str, prefix: str = "", **measured: float | Sequence[float]) -> None:
        for figure, value in measured.items():
            values = self.values.setdefault(name, {}).setdefault(prefix + figure, [])
            values.extend([value] if isinstance(value, int | float) else value)

    def _tell(self, what: str, target: Target) -> None:
        elapsed = time.monotonic() - self.began
        print(f"{elapsed:4.0f} s  {self.announced}: {what}: {target.name}", file=sys.stderr, flush=True)
