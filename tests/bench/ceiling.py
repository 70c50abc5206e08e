"""How fast the measuring client is by itself: what a gateway sent, played to it at no cost."""

from __future__ import annotations

import socket
import threading
import time
from typing import NamedTuple

from .websocket import Tape, WebSocketClient


class Pace(NamedTuple):
    """Stream messages and their bytes, a second."""

    messages: float
    bytes: float


def play(tape: Tape) -> Pace:
    """What `WebSocketClient` makes of `tape`.

    The bytes are those that the gateway sent, over TCP as it sent them, and the client runs the loop that it
    ran then. The sender is one system call, which holds no lock of the interpreter; so the time is the
    client's.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connected = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    begin = threading.Event()

    def send() -> None:
        begin.wait()
        accepted.sendall(tape.data)

    sender = threading.Thread(target=send)
    sender.start()
    client = WebSocketClient(connected, tape.protocol)
    try:
        start = time.perf_counter()
        # Not before: what lies ready in the socket's buffers would count as taken in no time.
        begin.set()
        heard = client.collect(tape.msg_id)
        elapsed = time.perf_counter() - start
    finally:
        begin.set()
        client.close()
        sender.join()
        accepted.close()
    return Pace(heard.rate(), heard.size / elapsed)
