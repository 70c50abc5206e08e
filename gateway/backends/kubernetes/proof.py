"""The proof of isolation, the gateway's half: a canary that is there, and a control that reaches it.

That an executor reaches nothing means something only where the same pod under another label would. So before
an executor's relay is asked to show that it cannot reach the canary (`relay/proof.py`), a control has shown
that it can: the executor's own pod, but for the label by which the policy selects it, and running only the
probe. What a control has shown counts for the same pod, the same canary, and `age` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from ..base import IsolationError
from . import names, podspec, reasons
from .api import Api, ApiError, Object
from .settings import Asked, Settings

#: Seconds that a control may take, its image's pull included, and that its pod may live.
_CONTROL_TIMEOUT = 120
_CONTROL_LIFE = 60.0
#: How the probe ends where it has reached the canary, and where it has not.
_REACHED, _NOT_REACHED = 0, 1

#: A label of every EndpointSlice (https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/).
_SERVICE = "kubernetes.io/service-name"


class Canary(NamedTuple):
    """Where the canary listens: one address of each family, and its port."""

    addresses: tuple[str, ...]
    port: int

    def __str__(self) -> str:
        return f"{' and '.join(self.addresses)}, port {self.port}"

    def start_member(self, within: float) -> dict[str, Any]:
        """`canary` of CONTROL start and prove (protocol.md 1.5)."""
        return {"addresses": list(self.addresses), "port": self.port, "within": within}


async def find_canary(api: Api, namespace: str, service: str) -> Canary:
    """Where it is now. Raises `IsolationError` where none is ready."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    slices = await api.get(path, {"labelSelector": f"{_SERVICE}={service}"})
    found: dict[str, tuple[str, int]] = {}
    for each in slices.get("items", []):
        for endpoint in each.get("endpoints") or []:
            if endpoint.get("conditions", {}).get("ready") and endpoint["addresses"] and each.get("ports"):
                found.setdefault(each["addressType"], (endpoint["addresses"][0], each["ports"][0]["port"]))
    if not found:
        raise IsolationError(
            f"The canary is down: the service {namespace}/{service} has no endpoint that is ready, so "
            f"that it cannot be shown that executors are isolated. See kubectl --namespace={namespace} "
            "get pods."
        )
    _, port = next(iter(found.values()))
    return Canary(tuple(sorted(address for address, _ in found.values())), port)


@dataclasses.dataclass
class _Control:
    """A control that runs."""

    pod: Object
    changed: asyncio.Event


class Controls:
    """The controls of one gateway, and what they have shown."""

    def __init__(self, api: Api, settings: Settings, pods: str, age: float) -> None:
        """`pods` is the path of the executors' namespace; `age` in seconds."""
        self._api = api
        self._settings = settings
        self._pods = pods
        self._age = age
        #: What has been shown of which pod and canary, and when, by the loop's clock.
        self.shown: dict[str, float] = {}
        self._running: dict[str, _Control] = {}
        # Each lives for as long as somebody holds it or waits.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def told(self, pod: Object) -> None:
        """A control's pod is now like this."""
        control = self._running.get(pod["metadata"]["name"])
        if control is not None:
            control.pod = pod
            control.changed.set()

    async def show(self, asked: Asked, canary: Canary) -> None:
        """Return once a control like this pod has reached the canary. Raises `IsolationError`."""
        key = json.dumps([dataclasses.asdict(asked), canary], default=str, sort_keys=True)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            began = asyncio.get_running_loop().time()
            for each in [each for each, at in self.shown.items() if began - at >= self._age]:
                del self.shown[each]
            if key in self.shown:
                return
            if not await self.reaches(asked, canary):
                raise IsolationError(
                    f"The control could not reach the canary at {canary}, so that it says "
                    "nothing that an executor cannot. Something else than the deny-all policy is in the "
                    "way: a policy of the canary's namespace that does not let it in, one that selects "
                    "the control, or the network itself."
                )
            self.shown[key] = began

    async def reaches(self, asked: Asked, canary: Canary) -> bool:
        """Whether a control like this pod reaches every address. Raises `IsolationError` where none runs."""
        name = f"control-{uuid.uuid4().hex[:16]}"
        short = dataclasses.replace(
            asked, limits=dataclasses.replace(asked.limits, life=min(_CONTROL_LIFE, asked.limits.life))
        )
        pod = podspec.control(name, ",".join(canary.addresses), canary.port, short, self._settings)
        control = self._running[name] = _Control(pod, asyncio.Event())
        try:
            await self._api.create(self._pods, pod)
            return await self._ended(control) == _REACHED
        except ApiError as error:
            raise IsolationError(
                f"Whether executors are isolated cannot be shown: {reasons.refusal(error)}"
            ) from error
        finally:
            await asyncio.shield(self._delete(name))

    async def _ended(self, control: _Control) -> int:
        """Its exit status. Raises `IsolationError` where it does not come so far."""
        trouble = None
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                while not reasons.has_ended(control.pod):
                    trouble = reasons.trouble(control.pod)
                    if trouble and trouble[1]:
                        raise IsolationError(f"The control does not start. {trouble[0]}")
                    control.changed.clear()
                    await control.changed.wait()
        except TimeoutError:
            why = trouble[0] if trouble else "kubectl describe says more."
            raise IsolationError(f"The control did not end within {_CONTROL_TIMEOUT} s. {why}") from None
        for status in control.pod["status"].get("containerStatuses") or []:
            if status["name"] == names.CONTAINER and "terminated" in status["state"]:
                code = int(status["state"]["terminated"]["exitCode"])
                if code in (_REACHED, _NOT_REACHED):
                    return code
        raise IsolationError(f"The control failed: {reasons.ending(control.pod).reason}.")

    async def _delete(self, name: str) -> None:
        self._running.pop(name, None)
        with contextlib.suppress(ApiError):
            # One that stays ends by itself, and is swept with the orphans.
            await self._api.delete(f"{self._pods}/{name}", 0)


def selecting(policies: Sequence[Object], labels: dict[str, str], deny_all: str) -> dict[str, Object]:
    """Name -> spec of the policies, beside the deny-all one, that select pods with these labels."""
    specs = {policy["metadata"]["name"]: policy["spec"] for policy in policies}
    return {
        name: spec
        for name, spec in specs.items()
        if name != deny_all and _selects(spec.get("podSelector", {}), labels)
    }


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    """As the API says it (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/)."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_matches(expression, labels) for expression in selector.get("matchExpressions") or [])


def _matches(expression: Object, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None
