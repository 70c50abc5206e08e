"""Starting a kernel for a request: what may pass, how long to wait, and what is counted.

Sessions and kernels start alike. The answer waits for the kernel to be ready, because many clients expect
that, but not longer than `wait` seconds, because they give up (jupyter_server's gateway client after
42 s): a kernel that is still starting is a good answer, too, and so is one that is dead and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ..kernels.errors import (
    BadKernelSpecError,
    DrainingError,
    KernelError,
    NoSuchKernelSpecError,
    TooManyKernelsError,
)
from ..kernels.kernel import Kernel
from ..kernels.registry import Kernels
from ..kernels.specs import KernelSpecs
from ..kernels.state import State
from ..observability import Metrics, bind
from .environment import EnvironmentFilter

#: Values of the metric's label `reason`, for what the registry refuses.
_REASONS: Mapping[type[KernelError], str] = {
    NoSuchKernelSpecError: "no_such_kernelspec",
    BadKernelSpecError: "bad_kernelspec",
    TooManyKernelsError: "max_kernels",
    DrainingError: "draining",
}
#: The same for a kernel that was accepted and did not become ready; the kernel's `reason` says why.
_DIED = "died"


class KernelStarts:
    """Starts kernels and keeps count of how that goes."""

    def __init__(
        self,
        kernels: Kernels,
        environment: EnvironmentFilter,
        metrics: Metrics,
        wait: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._kernels = kernels
        self._environment = environment
        self._metrics = metrics
        self._wait = wait
        self._monotonic = monotonic
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, name: str | None, owner: str, env: dict[str, Any] | None = None) -> Kernel:
        """A new kernel that is ready, or dead, or still starting after `wait` seconds.

        `env` is what the request has in its body. Raises what `Kernels.create` and `EnvironmentFilter.passes`
        raise, and `NoSuchKernelError` where it was deleted meanwhile.
        """
        began = self._monotonic()
        try:
            kernel = self._kernels.create(
                spec_name(self._kernels.kernelspecs, name), self._environment.passes(env or {}), owner
            )
        except KernelError as error:
            self._metrics.kernel_failures.labels(_REASONS[type(error)]).inc()
            raise
        bind(kernel_id=kernel.id)
        self._metrics.kernel_starts.labels(kernel.name).inc()
        task = asyncio.create_task(self._watch(kernel, began))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # The task goes on: a start that outlasts the answer counts as well.
        await asyncio.wait({task}, timeout=self._wait)
        return self._kernels.get(kernel.id)

    async def close(self) -> None:
        """End the watching of starts; the kernels themselves are the registry's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, kernel: Kernel, began: float) -> None:
        await kernel.wait_ready()
        if kernel.execution_state != State.DEAD:
            seconds = self._monotonic() - began
            self._metrics.kernel_start_seconds.labels(kernel.name).observe(seconds)
        elif kernel.reason is not None:  # else it was shut down before it was ready
            self._metrics.kernel_failures.labels(_DIED).inc()


def default_name(specs: KernelSpecs) -> str:
    """The kernelspec for a request that names none: the configured one, else the first by name."""
    known = specs.all()
    if specs.default_kernel_name in known or not known:
        return specs.default_kernel_name
    return min(known)


def spec_name(specs: KernelSpecs, name: str | None) -> str:
    """The kernelspec that a client means by `name`.

    A name that no kernelspec has but that is a kernelspec's language means that language's: the default
    kernelspec if it speaks it, else the first by name. So `python`, which thebe asks for where a page names
    nothing, is `python3`. Any other name is returned as it is, for the registry to refuse.
    """
    if not name:
        return default_name(specs)
    known = specs.all()
    if name in known:
        return name
    speaking = [n for n, spec in known.items() if spec.language.lower() == name.lower()]
    default = default_name(specs)
    if default in speaking:
        return default
    return min(speaking, default=name)
