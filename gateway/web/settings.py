"""What the web layer is given: everything it uses, made by the application and passed in."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable

from ..auth import AccessPolicy, Identity
from ..kernels.errors import NoSuchKernelError
from ..kernels.kernel import Kernel
from ..kernels.registry import Kernels
from ..observability import Metrics
from .cors import CorsPolicy
from .forwarded import TrustedProxies

#: The names that a request may pass to its kernel's environment where nothing else is configured.
DEFAULT_ALLOWED_ENV = frozenset({"KERNEL_USERNAME", "KERNEL_WORKING_DIR"})


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclasses.dataclass(frozen=True)
class WebSettings:
    """Immutable; every handler reaches it as `self.web`.

    - `base_url` starts and ends with a slash.
    - `allowed_env`: the names of environment variables that a request may pass to its kernel.
    - `max_body`: bytes of a request's body.
    - `start_wait`: seconds after which a request for a kernel is answered though it is still starting.
    - `now` is aware and in UTC; `monotonic` in seconds.
    """

    kernels: Kernels
    access: AccessPolicy
    cors: CorsPolicy
    metrics: Metrics
    base_url: str = "/"
    allowed_env: frozenset[str] = DEFAULT_ALLOWED_ENV
    proxies: TrustedProxies = dataclasses.field(default_factory=TrustedProxies)
    max_body: int = 1024 * 1024
    start_wait: float = 10.0
    now: Callable[[], datetime.datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not (self.base_url.startswith("/") and self.base_url.endswith("/")):
            raise ValueError(f"base_url must start and end with a slash, not {self.base_url!r}")

    def kernel_of(self, identity: Identity, kernel_id: str) -> Kernel:
        """The kernel of that id, if it is the caller's.

        Raises `NoSuchKernelError` otherwise, so that nobody learns of another's kernels.
        """
        kernel = self.kernels.get(kernel_id)
        if not identity.owns(kernel.owner):
            raise NoSuchKernelError(kernel_id)
        return kernel

    def kernels_of(self, identity: Identity) -> list[Kernel]:
        """The caller's kernels, oldest first."""
        return [kernel for kernel in self.kernels.list() if identity.owns(kernel.owner)]
