"""One executor: its streams, its life as the watch tells it, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...transport.base import Transport, TransportError
from ...transport.kube_exec import KubeExecTransport
from ..base import BackendError, CapacityError, Ending, Sandbox
from . import names, reasons
from .api import Api, ApiError, Object

Log = logging.Logger | logging.LoggerAdapter[Any]

#: Seconds that the API server may take to open an exec stream.
_OPEN_TIMEOUT = 10.0
#: Seconds between SIGTERM and SIGKILL when a pod is deleted; the relay ends everything at SIGTERM.
_GRACE = 1
#: Seconds after which a pod whose end no kubelet confirms is struck off the list.
_CONFIRMATION = 30.0
#: Seconds between two tries to delete while the API server does not answer.
_PAUSE = 1.0
#: Seconds that a node may be out of reach until its pods are given up; the cluster waits some 50 before.
NODE_PATIENCE = 30.0

#: Says more about why a relay could not show that it is isolated.
Explain = Callable[[str], Awaitable[str]]


class KubernetesSandbox(Sandbox):
    """An executor of this gateway's, made by it or found."""

    home = names.HOME
    #: The relay gives the kernel the environment of its image.
    base_env: Mapping[str, str] = {}

    def __init__(self, api: Api, path: str, pod: Object, explain: Explain, log: Log) -> None:
        """`path` is the pod's, in the API; `pod` may not be there yet."""
        metadata = pod["metadata"]
        self.kernel_id = metadata["labels"][names.KERNEL_ID]
        self.spec_name = metadata["annotations"].get(names.SPEC, "")
        self.owner = metadata["annotations"].get(names.OWNER, "")
        self.memory = metadata["annotations"].get(names.MEMORY, "")
        self.proof: Mapping[str, Any] = {}
        self._api = api
        self._path = path
        self._explain = explain
        self._log = log
        self._pod = pod
        self._is_gone = False
        self._changed = asyncio.Event()
        self._asked = False
        self._out_of_reach_since: float | None = None
        self._removal: asyncio.Task[None] | None = None
        self._over = asyncio.create_task(self._live())

    # -- what the watch tells -----------------------------------------------------------------------

    def told(self, pod: Object, deleted: bool) -> None:
        """Its pod is now like this, or was before it went."""
        self._pod = pod
        self._is_gone = self._is_gone or deleted
        self._news()

    def _news(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def pod(self) -> Object:
        """As the cluster has it."""
        return self._pod

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as the cluster has said."""
        return not (self._asked or self._over.done())

    # -- the contract -------------------------------------------------------------------------------

    async def running(self, within: float) -> None:
        """Wait until its relay runs. Raises `BackendError` where it does not, within so many seconds."""
        trouble = None
        try:
            async with asyncio.timeout(within):
                while not reasons.is_running(self._pod):
                    if self._over.done():
                        raise BackendError(f"The sandbox could not be made: {self._over.result().reason}.")
                    trouble = reasons.trouble(self._pod)
                    if trouble and trouble[1]:
                        raise BackendError(trouble[0])
                    await self._changed.wait()
        except TimeoutError:
            if trouble:
                raise CapacityError(
                    f"{trouble[0]} It has waited for {within:g} s; try again later."
                ) from None
            raise BackendError(
                f"The pod did not start within {within:g} s. kubectl describe says more."
            ) from None

    async def connect(self) -> Transport:
        address = await self._api.exec_address(self._path, names.CONTAINER, names.CONNECT)
        try:
            return await KubeExecTransport.open(address, within=_OPEN_TIMEOUT)
        except TransportError as error:
            raise BackendError(f"No stream to the pod: {error}") from error

    async def wait(self) -> Ending:
        return await asyncio.shield(self._over)

    async def destroy(self) -> None:
        if self._removal is None:
            self._asked = True
            self._news()
            self._removal = asyncio.create_task(self._remove())
        await asyncio.wait([self._removal, self._over], return_when=asyncio.ALL_COMPLETED)

    async def remember(self, text: str) -> None:
        await self._api.patch(self._path, {"metadata": {"annotations": {names.MEMORY: text}}})
        self.memory = text

    async def explain(self, error: str) -> str:
        return await self._explain(error)

    def let_go(self) -> None:
        """Follow it no more, and leave it as it is."""
        self._over.cancel()
        if self._removal is not None:
            self._removal.cancel()

    # -- inner workings -----------------------------------------------------------------------------

    async def _live(self) -> Ending:
        clock = asyncio.get_running_loop().time
        while True:
            pod = self._pod
            if self._asked:
                return Ending("it was deleted")
            if self._is_gone or reasons.has_ended(pod) or reasons.is_being_deleted(pod):
                return reasons.ending(pod)
            if not reasons.is_out_of_reach(pod):
                self._out_of_reach_since = None
            elif self._out_of_reach_since is None:
                self._out_of_reach_since = clock()
            elif clock() - self._out_of_reach_since >= NODE_PATIENCE:
                return reasons.ending(pod)
            timeout = NODE_PATIENCE if self._out_of_reach_since is not None else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout)

    async def _remove(self) -> None:
        """Delete the pod, and wait until a kubelet has confirmed its end; until it is gone, again."""
        grace = _GRACE
        while not self._is_gone:
            try:
                if not await self._api.delete(self._path, grace):
                    return
            except ApiError as error:
                self._log.warning("the pod of kernel %s cannot be deleted yet: %s", self.kernel_id, error)
                await asyncio.sleep(_PAUSE)
                continue
            try:
                async with asyncio.timeout(_CONFIRMATION):
                    while not self._is_gone:
                        await self._changed.wait()
            except TimeoutError:
                self._log.warning(
                    "no node confirms the end of the pod of kernel %s; it is struck off", self.kernel_id
                )
                grace = 0
