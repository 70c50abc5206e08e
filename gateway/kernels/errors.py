"""What the kernel layer refuses, each with a sentence for the client that says what to do."""

from __future__ import annotations

from collections.abc import Iterable


class KernelError(Exception):
    """Base of the refusals below."""


class NoSuchKernelError(KernelError):
    """No kernel has this id, or not any more."""

    def __init__(self, kernel_id: str) -> None:
        super().__init__(f"There is no kernel {kernel_id}. GET /api/kernels lists those there are.")


class NoSuchKernelSpecError(KernelError):
    """No kernelspec has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"There is no kernelspec {name!r}. Those there are: {names}.")


class BadKernelSpecError(KernelError):
    """A kernelspec that cannot be run as it stands; the administrator has to mend it."""


class TooManyKernelsError(KernelError):
    """The configured number of kernels is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"All {limit} kernels of this gateway are in use. Shut one down, then try again.")


class DrainingError(KernelError):
    """The gateway is about to end and starts nothing more."""

    def __init__(self) -> None:
        super().__init__("This gateway is shutting down and starts no more kernels. Try again shortly.")


class KernelStateError(KernelError):
    """The kernel is not in a state in which this can be done."""


class KernelGoneError(KernelError):
    """The kernel was deleted while a client was attached to it."""

    def __init__(self, kernel_id: str) -> None:
        super().__init__(f"Kernel {kernel_id} has been shut down.")
