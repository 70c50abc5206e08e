"""An executor that is made to be looked at: it is reached by exec and by nothing else, and reaches nobody.

What a doctor shows beyond a start's checks. The executor's kernel is a listener, run by the relay's own
interpreter, so that an image needs none. A control, which the canary's own check has shown to reach others
and which its policy lets go to executors on this port, must not get there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ...transport.base import Transport, TransportError
from ...wire.framing import FrameDecoder, FramingError, Kind, encode
from ..base import BackendError, Check, IsolationError
from . import names
from .proof import Canary, Controls
from .sandbox import KubernetesSandbox
from .settings import Asked

#: Where the listener listens; the control's policy lets it go there (k8s/manifests/executors).
PORT = 8080
_LISTENING = "listening"
_LISTENER = f"""
import sys
sys.path.insert(0, {names.RELAY!r})
from gateway.relay.canary import answer, listen
server = listen({PORT})
print({_LISTENING!r}, flush=True)
answer(server)
"""
#: Seconds that each step may take.
_PATIENCE = 30.0

_ENFORCE = (
    "The policy needs a CNI that enforces it, such as Calico, Cilium or Weave Net. K3s includes Flannel by "
    "default, which does not enforce policies: install a CNI that does, or use K3s with "
    "--flannel-backend=none and a separate CNI."
)


async def look_at(
    sandbox: KubernetesSandbox,
    canary: dict[str, Any],
    controls: Controls,
    asked: Asked,
    explain: Callable[[str], Awaitable[str]],
) -> AsyncIterator[Check]:
    """The checks of an executor that runs; `canary` is what a relay is told of it (`Canary.start_member`)."""
    yield Check(
        "images", True, f"{asked.image} runs" + (", with the relay put into it" if asked.injected else "")
    )
    yield Check("user namespaces", True, _users(sandbox.pod))
    try:
        visit = await _Visit.begin(await sandbox.connect())
    except (BackendError, TransportError) as error:
        yield Check("exec", False, str(error), "See that the API server reaches the kubelets (port 10250).")
        return
    yield Check("exec", True, "a stream to the relay opens")
    try:
        reached = await visit.command("prove", {"canary": canary}, canary["within"] + _PATIENCE)
        where = " and ".join(canary["addresses"])
        if reached:
            yield Check("egress", False, await explain(reached), _ENFORCE)
        else:
            yield Check(
                "egress", True, f"an executor does not reach the canary at {where}, which a control does"
            )
        await visit.listen(sandbox)
        yield await _ingress(sandbox, controls, asked)
    except (TransportError, FramingError, TimeoutError, ValueError) as error:
        yield Check("egress", False, f"The relay did not do as it was told: {error!r}.", "Look at its log.")
    finally:
        await visit.close()


async def _ingress(sandbox: KubernetesSandbox, controls: Controls, asked: Asked) -> Check:
    addresses = tuple(each["ip"] for each in sandbox.pod["status"].get("podIPs", []))
    try:
        reached = await controls.reaches(asked, Canary(addresses, PORT))
    except IsolationError as error:
        return Check("ingress", None, str(error), "Look at what stops the control.")
    where = " and ".join(addresses)
    if reached:
        detail = f"A control connected to an executor at {where}, which the deny-all policy is to prevent."
        return Check("ingress", False, detail, _ENFORCE)
    return Check("ingress", True, f"a control does not connect to an executor, which listens at {where}")


def _users(pod: dict[str, Any]) -> str:
    if pod["spec"].get("hostUsers") is False:
        return "its users are its own"
    return "its users are the node's: KubernetesBackend.user_namespaces is off"


class _Visit:
    """A stream to a relay, cut down to what is needed here (docs/protocol.md, 1)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._decoder = FrameDecoder()
        self._number = 0
        self._log: list[str] = []
        self._answers: dict[int, str] = {}

    @classmethod
    async def begin(cls, transport: Transport) -> _Visit:
        visit = cls(transport)
        hello = {"version": 1, "capabilities": [], "window": 1 << 20, "max_message": 1 << 20}
        await visit._send(Kind.HELLO, hello)
        return visit

    async def close(self) -> None:
        await self._transport.close()

    async def command(self, op: str, members: dict[str, Any], seconds: float) -> str:
        """What the relay answered: "", or why not. Raises `TimeoutError`."""
        number = await self._ask(op, members)
        async with asyncio.timeout(seconds):
            while number not in self._answers:
                await self._receive()
        return self._answers[number]

    async def listen(self, sandbox: KubernetesSandbox) -> None:
        """Have the relay run the listener as its kernel, and wait until it listens."""
        argv = [*names.PROGRAM[:-1], "-c", _LISTENER]
        start = {"argv": argv, "env": {}, "cwd": sandbox.home}
        await self._ask("start", start)
        async with asyncio.timeout(_PATIENCE):
            while _LISTENING not in self._log:
                await self._receive()

    async def _ask(self, op: str, members: dict[str, Any]) -> int:
        self._number += 1
        await self._send(Kind.CONTROL, {"id": self._number, "op": op, **members})
        return self._number

    async def _send(self, kind: Kind, members: dict[str, Any]) -> None:
        await self._transport.send(encode(kind, payload=json.dumps(members).encode()))

    async def _receive(self) -> None:
        data = await self._transport.receive()
        if not data:
            raise TransportError("the relay ended the stream")
        for frame in self._decoder.feed(data):
            if frame.kind is Kind.LOG:
                self._log = [*self._log[-100:], *frame.payload.decode(errors="replace").splitlines()]
            elif frame.kind is Kind.CONTROL:
                answer = json.loads(frame.payload)
                self._answers[int(answer["id"])] = str(answer.get("error", ""))
