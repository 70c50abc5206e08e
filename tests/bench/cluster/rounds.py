"""The rounds: what is compared is measured back to back, and all of it again, as in the other bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import measures, processes
from ..figures import PROTOCOLS
from ..record import Record, Values
from ..rounds import STARTS
from ..targets import Bare, Server
from .pods import BarePods, OpenPod
from .targets import BuiltIn, Embedded, Executors

#: Kernels that are started at once.
MANY = 20


@dataclass(frozen=True)
class Targets:
    """All that is measured; the servers run. `pods` are for the executors of the same kind."""

    bare: Bare
    ours: Executors
    built_in: BuiltIn
    embedded: Embedded
    open_pod: OpenPod
    pods: BarePods
    built_in_pods: BarePods


class Rounds:
    """Over these targets."""

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self.record = Record()

    def run(self, count: int) -> Values:
        for number in range(1, count + 1):
            self.record.announced = f"round {number} of {count}"
            for _ in range(STARTS):
                self._cold_starts()
            self._inside()
            for protocol in PROTOCOLS:
                self._traffic(protocol)
            self._many()
        return self.record.values

    def _cold_starts(self) -> None:
        of, record = self.targets, self.record
        record.tell("cold start", of.bare.name)
        record.note(of.bare.name, cold_start=measures.cold_start(of.bare))
        for kind, pods, server in (("", of.pods, of.ours), ("built_in_", of.built_in_pods, of.built_in)):
            record.tell(f"{kind}running", pods.name)
            record.note(pods.name, f"{kind}", running=pods.running())
            record.tell("cold start", server.name)
            record.note(of.ours.name, f"{kind}", cold_start=measures.cold_start(server))

    def _inside(self) -> None:
        of, record = self.targets, self.record
        record.tell("the kernel reached directly", of.open_pod.name)
        record.note(of.open_pod.name, **of.open_pod.direct())

    def _traffic(self, protocol: str) -> None:
        of, record = self.targets, self.record
        for target, spoken in ((of.bare, of.bare.protocols[0]), (of.embedded, protocol), (of.ours, protocol)):
            record.tell(f"{spoken} round trips", target.name)
            with target.kernel(spoken) as client:
                record.round_trips(target, spoken, client)
        for server in (of.embedded, of.ours):
            record.tell(f"{protocol} flood", server.name)
            with server.kernel(protocol) as client:
                record.flood(server, protocol, client, measures.FLOOD)
        record.tell("the bare exec stream", of.open_pod.name)
        record.note(of.open_pod.name, stream=of.open_pod.stream())
        record.tell(f"{protocol} output of 10 MiB", of.ours.name)
        with of.ours.kernel(protocol) as client:
            record.big_output(of.ours, protocol, client)

    def _many(self) -> None:
        """At once, of each; the gateway has done nothing else, and is weighed with all of them."""
        of, record = self.targets, self.record
        record.tell(f"{MANY} at once", of.pods.name)
        record.note(of.pods.name, "twenty_", running=of.pods.running(MANY))
        record.tell(f"{MANY} at once", of.bare.name)
        with measures.at_once(of.bare, MANY) as measured:
            record.note(of.bare.name, "twenty_", **measured)
        record.tell(f"{MANY} at once", of.ours.name)
        with of.ours.fresh() as fresh:
            with fresh.kernel() as client:
                client.execute("1 + 1")
            before = processes.descriptors(fresh.running_pid)
            with measures.at_once(fresh, MANY) as measured:
                record.note(of.ours.name, "twenty_", **measured, **_weight(fresh, before))


def _weight(server: Server, before: int) -> Mapping[str, float]:
    return {
        "memory": processes.memory(server.running_pid),
        "descriptors": (processes.descriptors(server.running_pid) - before) / MANY,
    }
