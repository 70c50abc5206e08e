"""What a backend is: the maker of sandboxes, each of which holds one relay and its kernel.

`tests/conformance` holds every backend to this page.

- A backend that cannot show that its sandboxes are isolated raises `IsolationError` from `start` (or
  from `create`, where the proof belongs to the single sandbox), and no user code runs.
- `create` that fails or is cancelled leaves nothing behind.
- `Sandbox.destroy` never fails, may be called at any time and again, and returns when nothing of the
  sandbox is left: no process, mount, cgroup, file, descriptor.
- A backend with `survives_gateway` finds its sandboxes again with `list`, and each gives one stream after
  the other; any other's end with the gateway's process, however that ends, and have one stream.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence

from ..transport.base import Transport


class BackendError(Exception):
    """A sandbox could not be made. The message is a sentence for the client and says what to do."""


class IsolationError(BackendError):
    """It could not be shown that sandboxes are isolated; nothing may run."""


class CapacityError(BackendError):
    """A bound of the machine or the cluster is reached; trying again later may work."""


class SpecError(BackendError):
    """The kernelspec asks for what cannot be had or may not be asked; it names the member."""


@dataclasses.dataclass(frozen=True)
class SandboxRequest:
    """What a sandbox is to hold.

    `kernel_id` is a UUID in its usual text form. `argv` is the kernel's, with `{connection_file}`
    still in it and `{resource_dir}` resolved. `resource_dir` is the kernelspec's folder, or "".
    `settings` is `metadata.sandbox` of the kernelspec, not yet validated. `owner` is data for labels
    and logs.
    """

    kernel_id: str
    spec_name: str
    argv: Sequence[str]
    resource_dir: str
    settings: Mapping[str, object]
    owner: str


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that a backend looked at on this machine, for its start and for `jupyter gateway doctor`.

    `ok` is None where it could not be told. `remedy` says what to do where it is not well.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class LimitReport:
    """How a limit is kept here: `value` with its unit, and whether it can be evaded (`best_effort`)."""

    name: str
    value: str
    enforced_by: str
    best_effort: bool


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a sandbox ended.

    `reason` is a clause without a full stop: "it was killed by SIGKILL", "it reached its maximum life of
    3600 s". `expired` where it has had all the life that it may have, so that nothing is to take its place.
    """

    reason: str
    expired: bool = False


class Sandbox(abc.ABC):
    """One isolated place with a relay in it. Made by `Backend.create` or found by `Backend.list`."""

    kernel_id: str

    #: What the request that made it named; asked only of sandboxes that outlived a gateway.
    spec_name: str
    owner: str

    #: Where the kernel's home is, as seen inside: its working directory and $HOME.
    home: str

    #: What the kernel's process needs in its environment to find its interpreter and libraries
    #: inside (PATH, HOME, LANG, ...). Never anything of the gateway's own environment.
    base_env: Mapping[str, str]

    #: Members of CONTROL start by which the relay is to show that the sandbox is isolated, before its kernel
    #: gets a request (protocol.md 1.5); none where the backend has shown it by itself.
    proof: Mapping[str, object] = {}

    #: The text that `remember` was given last, also by an earlier gateway; "" where there is none.
    memory: str = ""

    async def remember(self, text: str) -> None:
        """Keep a text, up to 64 KiB, for as long as the sandbox is there, and for a gateway that adopts it.

        Nothing to do where no gateway does. Raises a `BackendError`.
        """
        self.memory = text

    async def explain(self, error: str) -> str:
        """Why a start failed, a sentence of the relay's, with what the backend knows of it."""
        return error

    @abc.abstractmethod
    async def connect(self) -> Transport:
        """A new stream to the relay. Where a sandbox ends with its gateway there is only one; a
        second call raises `BackendError`."""

    @abc.abstractmethod
    async def wait(self) -> Ending:
        """Wait for the end of the sandbox; may be cancelled, and called again."""

    @abc.abstractmethod
    async def destroy(self) -> None:
        """End everything in it and remove every trace. See the module's contract."""


class Backend(abc.ABC):
    """Makes, lists and destroys sandboxes; the module's docstring is the contract."""

    name: str
    survives_gateway: bool

    #: The interpreter that a plain `python` in a kernelspec's argv stands for, as its sandbox sees it.
    python: str

    #: The gateway's own environment, set by the application: where a backend's tools look for their
    #: configuration. Nothing of it is for a sandbox.
    environment: Mapping[str, str] = {}

    #: Set by the application before `start`: (host, port) pairs on which the gateway listens, which no
    #: sandbox may reach, and files of the gateway's own (configuration, token, keys), which none may see.
    listeners: Sequence[tuple[str, int]] = ()
    hidden_paths: Sequence[str] = ()

    @abc.abstractmethod
    async def start(self) -> None:
        """Get ready: sweep what a killed predecessor left, and prove isolation or raise."""

    @abc.abstractmethod
    async def create(self, request: SandboxRequest) -> Sandbox:
        """A new sandbox whose relay is starting. Raises a `BackendError`."""

    @abc.abstractmethod
    async def list(self) -> Sequence[Sandbox]:
        """The living sandboxes of this gateway's instance, those of a predecessor included."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Give back what the backend holds; destroys the sandboxes that cannot survive it."""

    async def checks(self) -> Sequence[Check]:
        """Look at what `start` depends on, without raising; a backend that needs nothing has none."""
        return ()

    def describe_limits(self) -> Sequence[LimitReport]:
        """The limits of a sandbox and what keeps each on this machine; may be asked before `start`."""
        return ()
