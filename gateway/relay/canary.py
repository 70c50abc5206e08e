"""`relay canary`: what a sandbox must not reach. It tells whoever connects that it is there, and hangs up.

It reads nothing, and has one connection at a time for no longer than it takes to hand seven bytes to the
system, so nobody can keep it from answering others, or make it hold anything. What it says tells it from
whatever else may listen at an address.
"""

import contextlib
import signal
import socket
import sys
from typing import NoReturn

#: The whole answer.
WORD = b"canary\n"


def canary(port: int) -> None:
    """Answer on this port of every address, of both families where the machine has both, until SIGTERM."""
    # The first process of a container ends by no signal that it does not ask for (pid_namespaces(7)).
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server = listen(port)
    except (OSError, OverflowError) as error:
        sys.exit(f"relay: nothing can listen on port {port}: {error}")
    answer(server)


def answer(server: socket.socket) -> NoReturn:
    """Tell whoever connects, for ever."""
    while True:
        # A client may be gone before it is accepted (accept(2)) or answered.
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                # The buffer of a new connection is empty, so it takes the word at once.
                connection.setblocking(False)
                connection.send(WORD)


def listen(port: int) -> socket.socket:
    """On every address. Raises `OSError` or `OverflowError`."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
