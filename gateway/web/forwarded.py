"""Where a request really came from, behind proxies that are listed.

X-Forwarded-For and X-Forwarded-Proto are believed only where the peer of the connection is a listed
proxy: anyone can send them. The list of addresses in X-Forwarded-For is read from its end, where the
nearest proxy wrote, up to the first address that is not a listed proxy; what stands before that is
the client's own claim.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tornado.httputil import HTTPServerRequest


class TrustedProxies:
    """The proxies whose headers are believed, as addresses or networks (`10.0.0.0/8`).

    Raises `ValueError` for an entry that is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def apply(self, request: HTTPServerRequest) -> None:
        """Set `remote_ip` and `protocol` of a request to what the listed proxies say; idempotent."""
        if not self._trusts(request.remote_ip):
            return
        forwarded = ",".join(request.headers.get_list("X-Forwarded-For")).split(",")
        for address in reversed([entry.strip() for entry in forwarded if entry.strip()]):
            if not _is_address(address):
                break
            request.remote_ip = address
            if not self._trusts(address):
                break
        protocol = request.headers.get("X-Forwarded-Proto", "").lower()
        if protocol in ("http", "https"):
            request.protocol = protocol

    def _trusts(self, address: str | None) -> bool:
        if address is None or not _is_address(address):
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
