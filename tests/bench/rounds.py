"""The rounds: every measure of every target, in turn and again, so that a busy minute hits all alike.

What is compared is measured back to back: a measure goes through all targets before the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import measures
from .client import Client
from .figures import PROTOCOLS
from .record import Record, Values
from .targets import Bare, Ours, Server, Target

#: Cold starts of a round: they are what varies most.
STARTS = 3


class Rounds:
    """Over running targets."""

    def __init__(self, bare: Bare, ours: Ours, peers: Sequence[Server]) -> None:
        self.ours = ours
        self.servers: tuple[Server, ...] = (ours, *peers)
        self.targets: tuple[Target, ...] = (bare, *self.servers)
        self.record = Record()

    def run(self, count: int) -> Values:
        """The servers of all targets have to be running; fresh ones are started besides."""
        record = self.record
        for number in range(1, count + 1):
            record.announced = f"round {number} of {count}"
            for _ in range(STARTS):
                for target in self.targets:
                    record.tell("cold start", target.name)
                    record.note(target.name, cold_start=measures.cold_start(target))
            for protocol in PROTOCOLS:
                self._traffic(protocol)
            self._slow_readers()
            for server in self.servers:
                record.tell("20 kernels", server.name)
                with server.fresh() as fresh:
                    record.note(server.name, "twenty_", **measures.twenty_kernels(fresh))
        return record.values

    def _traffic(self, protocol: str) -> None:
        """Round trips, floods and large outputs, of the bare kernel too in what it speaks.

        Each on a kernel of its own: a client that waits for its turn answers no pings, and is dropped.
        """
        for what, measure in (
            ("round trips", self.record.round_trips),
            ("flood", self._flood),
            ("output of 10 MiB", self.record.big_output),
        ):
            for target in self.targets:
                spoken = protocol if protocol in target.protocols else target.protocols[0]
                self.record.tell(f"{spoken} {what}", target.name)
                with target.kernel(spoken) as client:
                    measure(target, spoken, client)

    def _flood(self, target: Target, protocol: str, client: Client) -> None:
        count = measures.FLOOD if target is self.ours else measures.FLOOD_OF_OTHERS
        self.record.flood(target, protocol, client, count)

    def _slow_readers(self) -> None:
        """Each on a server that has done nothing else, whose memory nothing else has stretched before.

        In one protocol: what waits for a slow client is the same for all.
        """
        for size, text in measures.SLOW_TEXTS.items():
            for server in self.servers:
                self.record.tell(f"slow reader of {size}", server.name)
                with server.fresh() as fresh, fresh.kernel() as client:
                    measured = measures.slow_reader(fresh, client, text)
                    self.record.note(server.name, f"slow_{size}_", **measured)
