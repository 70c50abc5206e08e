"""What has moved on a TCP connection, by the system's own count.

A client on a slow line answers a ping when it has read what was sent before it, which may take minutes. That
it takes it, only the system sees: bytes that the gateway wrote may wait in a buffer, here or on their way,
and a message that a client sends is known to tornado when its last byte is there.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

#: `tcpi_bytes_acked` and `tcpi_bytes_received`, and where `struct tcp_info` has them (linux/tcp.h, from Linux
#: 4.1 on).
_BYTES = struct.Struct("@QQ")
_OFFSET = 120


class Progress(NamedTuple):
    """Bytes since the connection began: those that the other system acknowledged, and those that came."""

    taken: int
    received: int


def progress(sock: socket.socket) -> Progress:
    """How far a connection has come. TLS's own bytes count."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _BYTES.size)
    return Progress._make(_BYTES.unpack_from(info, _OFFSET))
