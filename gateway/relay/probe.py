"""`relay probe`: whether the canary answers at each of some addresses. A control pod runs only this.

Where several are given (a service has one of each family) each has to answer: an address that a pod without
the policy does not reach says nothing about a pod that must not reach it.
"""

import socket
import sys
import time

from .canary import WORD

#: Seconds for one attempt: nobody tells of a packet that a policy dropped.
ATTEMPT = 1.0
_SHORTEST = 0.01
_PAUSE = 0.05


def probe(addresses: list[str], port: int, patience: int = 5) -> None:
    """Try until each address has answered; exits 1 after `patience` seconds, with what each met."""
    deadline = time.monotonic() + patience
    silent = dict.fromkeys(addresses, "")
    while True:
        for address in list(silent):
            left = deadline - time.monotonic()
            silent[address] = _attempt(address, port, max(_SHORTEST, min(ATTEMPT, left)))
            if not silent[address]:
                del silent[address]
        if not silent:
            return
        if time.monotonic() > deadline:
            reasons = "; ".join(f"{address} port {port}: {reason}" for address, reason in silent.items())
            sys.exit(f"relay: no canary at {reasons}")
        time.sleep(_PAUSE)


def _attempt(address: str, port: int, seconds: float) -> str:
    """Why the canary did not answer; nothing where it did."""
    try:
        # Numbers only: to ask for a name could take longer than there is.
        (family, kind, _, _, place), *_ = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        with socket.socket(family, kind) as connection:
            connection.settimeout(seconds)
            connection.connect(place)
            # The canary's word comes in one piece, or it was somebody else's.
            heard = connection.recv(len(WORD))
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if heard == WORD else f"something else answered: {heard!r}"
