"""The bench's client hears a cell through, counts what never came, and is measured by itself."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.wire import messages
from tests.bench import ceiling
from tests.bench.client import header, missing
from tests.bench.websocket import Tape, WebSocketClient

REQUEST = "a-request"


def frame(payload: bytes, opcode: int) -> bytes:
    """As a server sends it: RFC 6455, 5.2, without a mask."""
    if len(payload) < 126:
        return bytes((0x80 | opcode, len(payload))) + payload
    if len(payload) < 65536:
        return bytes((0x80 | opcode, 126)) + len(payload).to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + len(payload).to_bytes(8, "big") + payload


def said(protocol: str, channel: str, msg_type: str, content: object) -> bytes:
    parts = [header(msg_type), {"msg_id": REQUEST}, {}, content]
    if protocol == "v1":
        return frame(messages.join(channel, [json.dumps(part).encode() for part in parts]), 2)
    names = ("header", "parent_header", "metadata", "content")
    return frame(json.dumps(dict(zip(names, parts, strict=True)) | {"channel": channel}).encode(), 1)


def cell(protocol: str, texts: list[str]) -> Tape:
    """What a gateway sends for a cell that writes `texts`, with a ping in between."""
    streams = [said(protocol, "iopub", "stream", {"name": "stdout", "text": text}) for text in texts]
    return Tape(
        protocol,
        b"".join(
            [
                said(protocol, "iopub", "status", {"execution_state": "busy"}),
                *streams,
                frame(b"7", 9),
                said(protocol, "shell", "execute_reply", {"status": "ok"}),
                said(protocol, "iopub", "status", {"execution_state": "idle"}),
            ]
        ),
        REQUEST.encode(),
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("protocol", ["v1", "legacy"])
def test_a_cell_is_heard_to_its_end(protocol: str, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    texts = ["0", "1", "2" * 70_000]
    theirs.sendall(cell(protocol, texts).data)
    heard = WebSocketClient(ours, protocol).collect(REQUEST.encode())
    assert len(heard.heads) == 3
    assert heard.size > 70_000
    assert heard.last >= heard.first > 0
    # A pong with the ping's payload, behind a mask of zeros.
    assert theirs.recv(100) == b"\x8a\x81\0\0\0\x007"


@pytest.mark.parametrize("protocol", ["v1", "legacy"])
def test_a_cell_that_failed_has_no_figures(protocol: str, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(said(protocol, "shell", "execute_reply", {"status": "error", "ename": "KernelDied"}))
    with pytest.raises(RuntimeError, match="KernelDied"):
        WebSocketClient(ours, protocol).collect(REQUEST.encode())


@pytest.mark.parametrize("protocol", ["v1", "legacy"])
def test_a_message_that_came_twice_does_not_make_up_for_one_that_never_came(
    protocol: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    theirs.sendall(cell(protocol, ["0xxx", "2xxx", "2xxx", "11xx"]).data)
    heads = WebSocketClient(ours, protocol).collect(REQUEST.encode()).heads
    assert len(heads) == 4
    assert missing(heads, 3) == 1
    assert missing(heads, 12) == 9


def test_a_tape_holds_what_was_read_ahead_too(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    first, second = cell("v1", ["0"]), cell("v1", ["1"])
    theirs.sendall(first.data + second.data)
    client = WebSocketClient(ours, "v1")
    client.collect(REQUEST.encode())
    client.start_tape()
    client.collect(REQUEST.encode())
    assert client.take_tape().data == second.data


@pytest.mark.parametrize("protocol", ["v1", "legacy"])
def test_the_clients_own_pace_is_of_all_that_the_tape_holds(protocol: str) -> None:
    tape = cell(protocol, [str(number) for number in range(2000)])
    pace = ceiling.play(tape)
    assert pace.messages > 0
    assert 0.5 < pace.bytes / pace.messages / (len(tape.data) / 2000) < 2


def test_a_slow_client_has_a_slow_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = WebSocketClient.receive

    def slowly(self: WebSocketClient) -> bytes:
        time.sleep(0.002)
        return receive(self)

    monkeypatch.setattr(WebSocketClient, "receive", slowly)
    assert ceiling.play(cell("v1", ["text"] * 50)).messages < 500


@pytest.mark.parametrize(
    ("protocol", "answered"),
    [("v1", b""), ("legacy", b"Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\n")],
)
def test_a_server_that_speaks_another_protocol_is_not_measured_in_this_one(
    protocol: str, answered: bytes
) -> None:
    def answer() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1 << 16)
            accepted.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + answered + b"\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        with pytest.raises(RuntimeError, match=f"no websocket in the {protocol} protocol"):
            WebSocketClient.connect(listener.getsockname()[1], "/", "a-token", protocol)
        server.join()
