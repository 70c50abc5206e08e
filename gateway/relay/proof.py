"""Shows that this sandbox reaches nobody: the canary, which others reach, does not answer from here.

Runs beside the kernel's start, and no request reaches the kernel before it has ended well. A policy may bind
some time after a pod has started, so an answer only begins the silence anew: `QUIET` seconds in which no
attempt got through, each of them by a socket of its own, because TCP repeats a lost SYN only after a second.
Any connection counts as an answer, whoever made it: a proxy on the way is a way out, too.

The gateway has seen by a control that the canary answers (backends/kubernetes/proof.py).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import zmq

from .loop import Loop

#: Seconds of silence that show it, and between two attempts.
QUIET = 0.5
_EVERY = 0.1

_TIMER = "proof"


class Proof:
    """One attempt to show it. `done` is called once: with "", or with a sentence that says what answered.

    Raises `ValueError` where the canary is no list of addresses with a port.
    """

    def __init__(self, loop: Loop, canary: object, done: Callable[[str], None]) -> None:
        """`canary` has `addresses`, `port`, and `within`: seconds that a policy may take until it binds."""
        self._loop = loop
        self._done = done
        self._addresses, self._port, within = _read(canary)
        self._deadline = loop.now + within
        #: When there was an answer last, or the beginning.
        self._since = loop.now
        self._answered = ""
        self._sockets: set[socket.socket] = set()
        self._try()

    def close(self) -> None:
        """Give it up."""
        self._loop.cancel(_TIMER)
        for sock in tuple(self._sockets):
            self._drop(sock)

    def _try(self) -> None:
        now = self._loop.now
        if now - self._since >= QUIET:
            self._end("")
        elif self._since > self._deadline:
            self._end(
                f"The sandbox is not isolated: it could reach the canary at {self._answered}, port "
                f"{self._port}, which the deny-all policy is to prevent."
            )
        else:
            for address in self._addresses:
                self._attempt(address)
            self._loop.at(_TIMER, now + _EVERY, self._try)

    def _attempt(self, address: str) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex((address, self._port))
        if code == 0:
            self._answer(address)
        if code != errno.EINPROGRESS:
            sock.close()
            return
        self._sockets.add(sock)
        self._loop.watch(sock.fileno(), lambda: self._look(sock, address), zmq.POLLOUT)

    def _look(self, sock: socket.socket, address: str) -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._answer(address)
        self._drop(sock)

    def _answer(self, address: str) -> None:
        self._answered = address
        self._since = self._loop.now

    def _drop(self, sock: socket.socket) -> None:
        self._sockets.discard(sock)
        self._loop.ignore(sock.fileno())
        sock.close()

    def _end(self, error: str) -> None:
        self.close()
        self._done(error)


def _read(canary: object) -> tuple[list[str], int, float]:
    if isinstance(canary, dict):
        addresses, port, within = (canary.get(name) for name in ("addresses", "port", "within"))
        if (
            isinstance(addresses, list)
            and addresses
            and all(isinstance(address, str) for address in addresses)
            and isinstance(port, int)
            and 0 < port < 65536
            and isinstance(within, int | float)
        ):
            return addresses, port, float(within)
    raise ValueError("'canary' must have 'addresses', 'port' and 'within'.")
