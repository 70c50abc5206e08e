"""The kernels of this gateway: who may have how many, for how long, and how they end together."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from traitlets import Bool, Float, Instance, Int, TraitError, default, validate
from traitlets.config import LoggingConfigurable

from ..backends.base import Backend, Sandbox, SandboxRequest
from ..wire.framing import DEFAULT_MAX_MESSAGE
from . import specs
from .clients import Clock
from .errors import BadKernelSpecError, DrainingError, KernelError, NoSuchKernelError, TooManyKernelsError
from .kernel import Kernel
from .launch import KernelSettings, Launch
from .specs import KernelSpecs
from .state import State


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Kernels(LoggingConfigurable):
    """The registry: makes kernels, finds them, culls them, and drains them at the end."""

    max_kernels = Int(0, config=True, help="How many kernels there may be at once; 0: no limit.")

    cull_idle_timeout = Float(
        0, config=True, help="Seconds without activity after which a kernel is shut down; 0: never."
    )
    cull_interval = Float(300, config=True, help="Seconds between two looks for kernels to cull.")
    cull_connected = Bool(False, config=True, help="Cull kernels that have connections, too.")
    cull_busy = Bool(False, config=True, help="Cull kernels that are busy, too.")

    max_message_size = Int(
        100 * 1024 * 1024,
        config=True,
        help="Bytes of the largest message, in either direction, at most 256 MiB. The websocket of a client "
        "that sends more is closed; output of a kernel beyond it is replaced by a note.",
    )
    max_client_queue = Int(
        40 * 1024 * 1024,
        config=True,
        help="Bytes of output that may wait for a slow client before its kernel is slowed down. The "
        "memory of the gateway may grow by somewhat more, and that of the kernel's relay by a multiple.",
    )
    start_timeout = Float(60, config=True, help="Seconds that a kernel may take until it answers.")
    restart_limit = Int(
        5, config=True, help="How often a kernel that dies is started again before it is given up."
    )
    stable_after = Float(
        10, config=True, help="Seconds after which a kernel counts as stable and its restarts are forgotten."
    )
    shutdown_grace = Float(
        1, config=True, help="Seconds that a kernel gets to end by itself when it is shut down."
    )

    backend = Instance(Backend)  # type: ignore[type-abstract]  # traitlets only checks isinstance
    kernelspecs = Instance(KernelSpecs)
    clock: Clock = staticmethod(_now)

    @default("kernelspecs")
    def _default_kernelspecs(self) -> KernelSpecs:
        return KernelSpecs(parent=self)

    @validate("max_kernels", "cull_idle_timeout", "restart_limit", "stable_after", "shutdown_grace")
    def _not_negative(self, proposal: Any) -> Any:
        if proposal["value"] < 0:
            raise TraitError(f"{proposal['trait'].name} must be at least 0, not {proposal['value']}")
        return proposal["value"]

    @validate("max_message_size")
    def _fits_the_wire(self, proposal: Any) -> Any:
        if not 0 < proposal["value"] <= DEFAULT_MAX_MESSAGE:
            raise TraitError(
                f"max_message_size must be from 1 to {DEFAULT_MAX_MESSAGE}, the most that a relay takes, "
                f"not {proposal['value']}"
            )
        return proposal["value"]

    @validate("cull_interval", "max_client_queue", "start_timeout")
    def _positive(self, proposal: Any) -> Any:
        if proposal["value"] <= 0:
            raise TraitError(f"{proposal['trait'].name} must be above 0, not {proposal['value']}")
        return proposal["value"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kernels: dict[str, Kernel] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self._culler: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether the gateway starts nothing more."""
        return self._draining

    async def start(self) -> None:
        """Adopt the kernels that an earlier gateway has left, and begin to cull, where that is configured.

        Each is there at once, with its id, and is starting until its relay has answered.
        """
        for sandbox in await self.backend.list():
            self._adopt(sandbox)
        if self.cull_idle_timeout > 0:
            self._culler = asyncio.create_task(self._cull_for_ever())

    def create(self, name: str, env: Mapping[str, str], owner: str) -> Kernel:
        """A new kernel that is starting.

        `env` is what of the request may pass. Raises `NoSuchKernelSpecError`, `BadKernelSpecError`,
        `TooManyKernelsError` or `DrainingError`. Nothing is awaited between the count and the entry, so
        that requests at the same time cannot exceed the limit; a kernel counts until nothing is left of it.
        """
        if self._draining:
            raise DrainingError()
        self.kernelspecs.get(name)
        if 0 < self.max_kernels <= len(self._kernels) + len(self._ending):
            raise TooManyKernelsError(self.max_kernels)
        kernel = self._enter(self.launch(str(uuid.uuid4()), name, env, owner))
        kernel.start()
        return kernel

    def _adopt(self, sandbox: Sandbox) -> None:
        try:
            launch = self.launch(sandbox.kernel_id, sandbox.spec_name, {}, sandbox.owner)
        except KernelError as error:
            self.log.warning("kernel %s is adopted without a kernelspec: %s", sandbox.kernel_id, error)
            launch = _without_spec(sandbox)
        self._enter(launch).adopt(sandbox)

    def launch(self, kernel_id: str, name: str, env: Mapping[str, str], owner: str) -> Launch:
        """What a kernel of that kernelspec is started with.

        Raises `NoSuchKernelSpecError` or `BadKernelSpecError`.
        """
        spec = self.kernelspecs.get(name)
        settings = spec.metadata.get("sandbox", {})
        if not isinstance(settings, dict):
            raise BadKernelSpecError(f"metadata.sandbox of the kernelspec {name!r} is not an object.")
        request = SandboxRequest(
            kernel_id=kernel_id,
            spec_name=name,
            argv=specs.command(name, spec, self.backend.python),
            resource_dir=spec.resource_dir,
            settings=settings,
            owner=owner,
        )
        return Launch(
            request=request,
            interrupt_mode=spec.interrupt_mode,
            transport=str(settings.get("transport", "ipc")),
            sign=bool(settings.get("sign", False)),
            environment=partial(specs.environment, spec, request=dict(env)),
        )

    def _enter(self, launch: Launch) -> Kernel:
        kernel = self._kernels[launch.request.kernel_id] = Kernel(
            launch,
            self.backend,
            self._kernel_settings(),
            self.clock,
            self.log,
            on_over=self._on_over,
        )
        return kernel

    def get(self, kernel_id: str) -> Kernel:
        """The kernel of that id; raises `NoSuchKernelError`."""
        try:
            return self._kernels[kernel_id]
        except KeyError:
            raise NoSuchKernelError(kernel_id) from None

    def list(self) -> list[Kernel]:
        """All kernels, oldest first."""
        return [*self._kernels.values()]

    async def delete(self, kernel_id: str) -> None:
        """Shut a kernel down; returns when nothing of it is left. Raises `NoSuchKernelError`."""
        self.get(kernel_id)
        # Who asked may go away; the end of a kernel goes on.
        await asyncio.shield(self._begin_to_end(kernel_id))

    def _on_over(self, kernel: Kernel) -> None:
        if kernel.id in self._kernels:
            self._begin_to_end(kernel.id)

    def _begin_to_end(self, kernel_id: str) -> asyncio.Task[None]:
        kernel = self._kernels.pop(kernel_id)
        task = self._ending[kernel_id] = asyncio.create_task(kernel.shutdown())
        task.add_done_callback(lambda _: self._ending.pop(kernel_id, None))
        return task

    async def drain(self, grace: float) -> None:
        """Start nothing more, and give running cells up to `grace` seconds to end, if they end with us."""
        self._draining = True
        if self.backend.survives_gateway:
            return
        deadline = asyncio.get_running_loop().time() + grace
        while any(kernel.execution_state == State.BUSY for kernel in self._kernels.values()):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                self.log.warning("some kernels were still busy when the grace of %g s ended", grace)
                return
            await asyncio.sleep(min(0.1, left))

    async def close(self) -> None:
        """End the culler, and every kernel or, where its sandbox survives, what holds it here."""
        self._draining = True
        if self._culler is not None:
            self._culler.cancel()
            await asyncio.gather(self._culler, return_exceptions=True)
        if self.backend.survives_gateway:
            await asyncio.gather(*(kernel.leave() for kernel in self._kernels.values()))
            self._kernels.clear()
        await asyncio.gather(*(self.delete(kernel_id) for kernel_id in list(self._kernels)))
        await asyncio.gather(*self._ending.values())

    def _kernel_settings(self) -> KernelSettings:
        return KernelSettings(
            window=self.max_client_queue,
            max_message=self.max_message_size,
            start_timeout=self.start_timeout,
            restart_limit=self.restart_limit,
            stable_after=self.stable_after,
            shutdown_grace=self.shutdown_grace,
        )

    async def _cull_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.cull_interval)
            await asyncio.gather(*(self._cull(kernel) for kernel in self.list()))

    async def _cull(self, kernel: Kernel) -> None:
        idle = (self.clock() - kernel.last_activity).total_seconds()
        if (
            idle < self.cull_idle_timeout
            or (kernel.connections and not self.cull_connected)
            or (kernel.execution_state == State.BUSY and not self.cull_busy)
            or kernel.id not in self._kernels
        ):
            return
        self.log.warning("kernel %s is culled after %.0f s without activity", kernel.id, idle)
        await self.delete(kernel.id)


def _without_spec(sandbox: Sandbox) -> Launch:
    """What can be said of a kernel whose kernelspec has gone: it runs, and can be made in no new sandbox."""
    request = SandboxRequest(
        kernel_id=sandbox.kernel_id,
        spec_name=sandbox.spec_name,
        argv=(),
        resource_dir="",
        settings={},
        owner=sandbox.owner,
    )
    return Launch(request, interrupt_mode="signal", transport="ipc", sign=False, environment=dict)
