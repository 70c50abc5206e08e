"""The channels websocket: who gets in, in which state, in which protocol, and how each end is told."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import struct

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from gateway.observability import REDACTED, PlainFormatter
from gateway.wire.framing import Kind
from tests.support.patience import until
from tests.unit.web_channels.raw_client import BINARY, TEXT, RawClient, frame
from tests.unit.web_channels.serving import (
    MAX_MESSAGE,
    TOKEN,
    closed,
    gateway,
    message,
    opened,
    parts,
    received,
)

ORIGIN = "Origin: http://127.0.0.1:{port}\r\n"
BUFFERS = (b"\x00\xff", b"\xfe" * 300)


# -- the handshake ------------------------------------------------------------------------------------

#: What is wrong -> how the websocket is asked for, and the status of the answer.
REFUSED: dict[str, tuple[dict, int]] = {
    "no token": ({"headers": {}}, 403),
    "a wrong token": ({"headers": {"Authorization": "token wrong"}}, 403),
    "jupyter_server's header without a token": ({"headers": {"Authorization": "token "}}, 403),
    "a token in the path, where that is off": ({"headers": {}, "prefix": f"/t/{TOKEN}"}, 403),
    "a page of another site": ({"extra": {"Origin": "http://example.com"}}, 403),
    "a page without an origin": ({"extra": {"Origin": "null"}}, 403),
    "a name that is not ours": ({"extra": {"Host": "rebound.example.com"}}, 403),
    "a kernel that is not there": ({"kernel_id": "0f0e0d0c-0b0a-4908-8706-050403020100"}, 404),
    "an id that is none": ({"kernel_id": "%00%2e%2e"}, 404),
    "a session_id that is too long": ({"query": "session_id=" + "x" * 256}, 400),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("name", REFUSED)
async def test_a_websocket_is_refused_with_a_status_and_json_before_its_handshake(name: str):
    asked, status = REFUSED[name]
    options = dict(asked)
    options.setdefault("headers", {"Authorization": f"token {TOKEN}"})
    options["headers"] = options["headers"] | options.pop("extra", {})
    async with gateway() as server:
        with pytest.raises(HTTPClientError) as refusal:
            await server.connect(**options)
        assert refusal.value.code == status
        answer = json.loads(refusal.value.response.body)
        assert answer.keys() == {"reason", "message"}
        assert TOKEN not in answer["message"]
        assert server.kernel.connections == 0


@pytest.mark.gen_test
async def test_another_users_kernel_is_not_there():
    async with gateway(owner="somebody else") as server:
        with pytest.raises(HTTPClientError) as refusal:
            await server.connect()
        assert refusal.value.code == 404
        assert server.kernel.connections == 0


#: What is wrong with the handshake itself -> the headers that a client sends, and the status.
MALFORMED: dict[str, tuple[dict[str, str], int]] = {
    "a plain GET": ({}, 400),
    "no connection upgrade": ({"Upgrade": "websocket", "Sec-WebSocket-Key": "eA=="}, 400),
    "no key": ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}, 400),
    "an old version": (
        {
            "Upgrade": "websocket",
            "Connection": "keep-alive, Upgrade",
            "Sec-WebSocket-Key": "eA==",
            "Sec-WebSocket-Version": "8",
        },
        426,
    ),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_request_that_is_no_websockets_is_answered_with_json(name: str):
    headers, status = MALFORMED[name]
    async with gateway() as server:
        url = server.url().replace("ws://", "http://")
        answer = await AsyncHTTPClient(force_instance=True).fetch(
            url, headers=headers | {"Authorization": f"Bearer {TOKEN}"}, raise_error=False
        )
        assert answer.code == status
        assert json.loads(answer.body).keys() == {"reason", "message"}
        assert server.kernel.connections == 0


@pytest.mark.gen_test
async def test_a_client_without_credentials_is_told_which_setting_would_let_it_in(caplog):
    """nbclient's websocket carries no header, no query and no session_id; only its URL can be set."""
    caplog.set_level(logging.INFO)
    async with gateway() as server:
        with pytest.raises(HTTPClientError):
            await server.connect(v1=False, headers={"Origin": f"http://127.0.0.1:{server.port}"})
    assert "allow_path_token=True" in caplog.text


@pytest.mark.gen_test
async def test_a_token_in_the_path_opens_a_websocket_where_that_is_on_and_is_in_no_log_line(caplog):
    caplog.set_level(logging.DEBUG)
    async with gateway(allow_path_token=True) as server:
        relay = await server.relay()
        await server.connect(v1=False, headers={}, prefix=f"/t/{TOKEN}")
        await opened(relay)
        with pytest.raises(HTTPClientError) as refusal:
            await server.connect(v1=False, headers={}, prefix="/t/wrong-guess")
        assert refusal.value.code == 403
    lines = [PlainFormatter().format(record) for record in caplog.records]
    assert any(f"/t/{REDACTED}/api/kernels" in line for line in lines)
    assert not [line for line in lines if TOKEN in line or "wrong-guess" in line]


@pytest.mark.gen_test
async def test_compression_is_not_negotiated_and_small_packets_go_at_once():
    async with gateway() as server:
        relay = await server.relay()
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        async with await RawClient.open(server, headers=offer) as client:
            await opened(relay)
            assert b"Sec-WebSocket-Extensions" not in client.head
            (ours,) = _sockets_to(client.socket)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _sockets_to(client: socket.socket) -> list[socket.socket]:
    """The gateway's own ends of the client's connection, which is in this process."""
    return [
        other
        for other in gc.get_objects()
        if isinstance(other, socket.socket)
        and other.fileno() >= 0
        and other.family == socket.AF_INET
        and _peer(other) == client.getsockname()
    ]


def _peer(sock: socket.socket) -> object:
    try:
        return sock.getpeername()
    except OSError:
        return None


# -- states of the kernel -----------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_websocket_opens_while_the_kernel_starts_and_what_it_sends_arrives_later():
    async with gateway(held=True) as server:
        client = await server.connect("session_id=one")
        assert server.kernel.execution_state == "starting"
        assert server.kernel.connections == 1
        await client.write_message(message(msg_id="early"), binary=True)
        server.backend.held.set()
        relay = await server.backend.next_relay()
        assert json.loads((await relay.hear(Kind.OPEN)).payload) == {"session_id": "one"}
        assert (await relay.hear(Kind.MESSAGE)).payload == message(msg_id="early")


@pytest.mark.gen_test
async def test_a_websocket_opens_on_a_dead_kernel_and_its_requests_are_ended():
    async with gateway() as server:
        relay = await server.backend.next_relay()
        relay.answer(await relay.hear_control("start"), error="no interpreter here")
        await until(lambda: server.kernel.execution_state == "dead")
        client = await server.connect(v1=False)
        await client.write_message(json.dumps({"header": json.loads(parts("m-7")[0]), "channel": "shell"}))
        told = [json.loads(await received(client)) for _ in range(3)]
        assert [one["msg_type"] for one in told] == ["stream", "execute_reply", "status"]
        assert {one["parent_header"]["msg_id"] for one in told} == {"m-7"}
        assert "no interpreter here" in told[0]["content"]["text"]


@pytest.mark.gen_test
async def test_a_websocket_outlives_a_restart_of_its_kernel():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect()
        route = await opened(relay)
        restart = asyncio.create_task(server.kernel.restart())
        control = await relay.hear_control("restart")
        relay.answer(control)
        await restart
        relay.say_message(message("iopub", "after"), route)
        while b'"after"' not in (told := await received(client)):
            assert told is not None


@pytest.mark.gen_test
@pytest.mark.parametrize("v1", [True, False])
async def test_a_websocket_whose_kernel_is_shut_down_is_closed_and_told_so(v1: bool):
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect(v1=v1)
        await opened(relay)
        server.backend.made[0].die("ended")
        await server.kernel.shutdown()
        # JupyterLab does not try to come back after 1001.
        assert await closed(client) == (1001, "This kernel has been shut down.")
        # Tornado's reading and our request for it had the same end, whoever was first.
        assert server.kernel.connections == 0


@pytest.mark.gen_test
async def test_a_request_that_waits_while_its_kernel_is_shut_down_ends_with_it():
    async with gateway(held=True) as server:
        client = await server.connect()
        await client.write_message(message(), binary=True)
        await until(lambda: server.kernel.connections == 1)
        await server.kernel.shutdown()
        assert (await closed(client))[0] == 1001


# -- protocols ----------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_v1_passes_both_ways_byte_for_byte():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect("session_id=one")
        assert client.selected_subprotocol == "v1.kernel.websocket.jupyter.org"
        route = await opened(relay)
        request = message("shell", "m-1", *BUFFERS, code="1")
        await client.write_message(request, binary=True)
        frame = await relay.hear(Kind.MESSAGE)
        assert (frame.route, frame.payload) == (route, request)
        answers = [message("iopub", f"m-{size}", b"\xfe" * size) for size in (0, 100, 70_000, 200_000, 0)]
        for answer in answers:
            relay.say_message(answer, route)
        assert [await received(client) for _ in answers] == answers


@pytest.mark.gen_test
async def test_a_message_of_the_largest_size_arrives_while_the_next_one_follows():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect()
        await opened(relay)
        largest = message("shell", "m-1", b"x" * (MAX_MESSAGE - len(message("shell", "m-1", b""))))
        assert len(largest) == MAX_MESSAGE
        for request in (largest, message()):
            await client.write_message(request, binary=True)
        assert (await relay.hear(Kind.MESSAGE)).payload == largest
        assert (await relay.hear(Kind.MESSAGE)).payload == message()


@pytest.mark.gen_test
async def test_without_a_subprotocol_messages_are_json_text():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect("session_id=one", v1=False)
        assert client.selected_subprotocol is None
        await opened(relay)
        request = {"header": json.loads(parts()[0]), "channel": "shell", "content": {"code": "é"}}
        await client.write_message(json.dumps(request))
        sent = await relay.hear(Kind.MESSAGE)
        assert json.dumps("é").encode() in sent.payload
        relay.say_message(message("iopub", "m-2", text="é"))
        told = await received(client)
        assert isinstance(told, str)
        value = json.loads(told)
        assert value["channel"] == "iopub"
        assert value["content"] == {"text": "é"}
        assert value["msg_id"] == "m-2"


#: Which handshakes show a client that can take binary frames -> query, headers, whether it can.
BINARY_SIGNS = {
    "a browser": ("session_id=one", ORIGIN, True),
    "jupyter_server's gateway client": ("session_id=one", "User-Agent: Tornado/6.5\r\n", False),
    "nbclient's, of jupyter_server": ("", ORIGIN, False),
    "a script": ("", "", False),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("name", BINARY_SIGNS)
async def test_buffers_go_to_a_legacy_client_as_binary_only_where_it_can_take_them(name: str):
    query, headers, takes_binary = BINARY_SIGNS[name]
    async with gateway() as server:
        relay = await server.relay()
        headers = headers.format(port=server.port)
        async with await RawClient.open(server, query, v1=False, headers=headers) as client:
            await opened(relay)
            relay.say_message(message("iopub", "m-2", *BUFFERS))
            opcode, payload = await client.frame()
            if takes_binary:
                assert opcode == BINARY
                count, start, first, second = struct.unpack(">4I", payload[:16])
                assert (count, start) == (3, 16)
                assert json.loads(payload[16:first])["msg_id"] == "m-2"
                assert (payload[first:second], payload[second:]) == BUFFERS
            else:
                assert opcode == TEXT
                assert json.loads(payload)["buffers"] == []


#: A binary message of JupyterLab's in the legacy layout, which its server sends on as text.
UPLOAD_JSON = json.dumps({"header": json.loads(parts("m-3")[0]), "channel": "shell", "content": {}}).encode()
UPLOAD = struct.pack(">3I", 2, 12, 12 + len(UPLOAD_JSON)) + UPLOAD_JSON


@pytest.mark.gen_test
@pytest.mark.parametrize("opcode", [BINARY, TEXT])
@pytest.mark.parametrize("buffer", [b"PNG is ASCII", b"\x89PNG\xff"])
async def test_a_legacy_binary_message_arrives_also_where_it_comes_as_text(opcode: int, buffer: bytes):
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, "session_id=one", v1=False) as client:
            await opened(relay)
            await client.send(opcode, UPLOAD + buffer)
            sent = (await relay.hear(Kind.MESSAGE)).payload
            assert sent.endswith(buffer)
            # It has shown nothing about what it can take itself.
            relay.say_message(message("iopub", "m-2", *BUFFERS))
            assert (await client.frame())[0] == TEXT


@pytest.mark.gen_test
async def test_a_client_that_speaks_v1_unasked_is_answered_in_v1_from_then_on():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, v1=False) as client:
            route = await opened(relay)
            relay.say_message(message("iopub", "before"))
            assert (await client.frame())[0] == TEXT
            await client.send(BINARY, message())
            assert (await relay.hear(Kind.MESSAGE)).payload == message()
            relay.say_message(message("shell", "after"), route)
            assert await client.frame() == (BINARY, message("shell", "after"))


@pytest.mark.gen_test
async def test_what_a_kernel_says_that_is_no_message_is_left_out_for_legacy_clients(caplog):
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect(v1=False)
        await opened(relay)
        for _ in range(100):
            relay.say_message(b"no message".ljust(100))
        relay.say_message(message("iopub", "m-2"))
        assert json.loads(await received(client))["msg_id"] == "m-2"
    assert len([record for record in caplog.records if record.name == "gateway.channels"]) == 1


@pytest.mark.gen_test
async def test_a_flood_arrives_whole_and_in_order_while_other_frames_come_between():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            sent = [message("iopub", f"m-{number}", b"x" * (number % 7 * 20_000)) for number in range(300)]
            for one in sent:
                relay.say_message(one)
            seen = []
            while len(seen) < len(sent):
                await client.send_bytes(frame(0x9, b"are you there"))
                opcode, payload = await client.frame()
                if opcode == BINARY:
                    seen.append(payload)
                elif opcode == 0x9:
                    await client.send(0xA, payload)
            assert seen == sent


# -- metrics ------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_messages_and_their_bytes_are_counted_in_both_directions():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect()
        await opened(relay)
        await client.write_message(message(), binary=True)
        await relay.hear(Kind.MESSAGE)
        for _ in range(3):
            relay.say_message(message("iopub"))
        for _ in range(3):
            await received(client)
        text = server.metrics.text().decode()
        assert 'jupyter_gateway_websocket_messages_total{direction="in"} 1.0' in text
        assert 'jupyter_gateway_websocket_messages_total{direction="out"} 3.0' in text
        assert (
            f'jupyter_gateway_websocket_bytes_total{{direction="out"}} {3 * len(message("iopub"))}.0' in text
        )
