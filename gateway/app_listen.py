"""Where the gateway listens, and whether it may: addresses, ports, TLS and the refusal to be open to all."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl


class StartError(Exception):
    """The gateway cannot start. The message says why and what to do, in a sentence."""


#: Connections that wait to be accepted; a class that starts its notebooks at once is more than 100.
_BACKLOG = 512

#: What a machine without IPv6 says to the addresses that a name has there.
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def bind(ip: str, port: int, retries: int) -> list[socket.socket]:
    """Listening sockets on `port`, or on the next free one of the `retries` ports after it.

    `port` 0 is any free one. There is a socket for each address that `ip` stands for. Raises `StartError`.
    """
    last = min(port + retries, 65535) if port else 0
    for candidate in range(port, last + 1):
        try:
            return _bind_all(ip, candidate)
        except (socket.gaierror, UnicodeError) as error:  # the second for what no name can be, such as a..b
            why = error.strerror if isinstance(error, OSError) else error
            raise StartError(f"There is no address {ip!r} on this machine: {why}.") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise StartError(
                    f"This account may not listen on port {candidate}; use one above 1023."
                ) from error
            raise StartError(f"Cannot listen on {ip or '*'} port {candidate}: {error.strerror}.") from error
    tried = str(port) if last == port else f"{port} to {last}"
    raise StartError(f"Port {tried} is in use. Name another with --port, or more tries with --port-retries.")


def _bind_all(ip: str, port: int) -> list[socket.socket]:
    """One socket for each address, all on one port, or none and an OSError."""
    found = socket.getaddrinfo(ip or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # With port 0 the first address decides it for the others.
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            bound = socket.create_server((str(address[0]), chosen), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno in _NO_SUCH_ADDRESS:
                absent = error
                continue
            for earlier in sockets:
                earlier.close()
            raise
        bound.setblocking(False)
        sockets.append(bound)
    if absent is not None and not sockets:
        raise absent
    return sockets


def is_loopback(ip: str) -> bool:
    """Whether every address that `ip` (an address or a name) stands for is this machine's own."""
    try:
        found = socket.getaddrinfo(ip, None, type=socket.SOCK_STREAM) if ip else []
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def tls_context(certfile: str, keyfile: str, client_ca: str) -> ssl.SSLContext | None:
    """What the three files come to; None where none is given. Raises `StartError`.

    With `client_ca`, a client without a certificate signed by it gets no connection.
    """
    if not certfile:
        if keyfile or client_ca:
            raise StartError("--keyfile and --client-ca need --certfile as well.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certfile, keyfile or None)
    except OSError as error:  # ssl.SSLError is one
        raise StartError(
            f"The certificate {certfile!r} and its key {(keyfile or certfile)!r} cannot be used: {error}."
        ) from error
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise StartError(f"The client CA {client_ca!r} cannot be used: {error}.") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def url(sockets: list[socket.socket], tls: bool, base_url: str) -> str:
    """The URL by which a program on this machine reaches the gateway."""
    ip, port = sockets[0].getsockname()[:2]
    address = ipaddress.ip_address(ip)
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{'https' if tls else 'http'}://{host}:{port}{base_url}"
