"""What a client may not send: a row each, and nothing is left behind by any."""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

import pytest

from gateway.wire.framing import Kind
from tests.support.patience import until
from tests.unit.web_channels.raw_client import BINARY, TEXT, RawClient, frame, header
from tests.unit.web_channels.serving import MAX_MESSAGE, gateway, message, opened, parts


class Row(NamedTuple):
    """`code` is that of the close frame; None: the connection ends without one, as Tornado has it."""

    name: str
    v1: bool
    sent: bytes
    code: int | None


HEADER = json.loads(parts()[0])
#: The first piece of a fragmented message (RFC 6455, 5.4).
PIECE = frame(BINARY, b"x", final=False)


def legacy(**members: object) -> bytes:
    """The JSON of a message, changed as a row needs it."""
    value: dict[str, object] = {"header": HEADER, "channel": "shell", "content": {}}
    return json.dumps(value | members).encode()


def words(*values: int) -> bytes:
    """A binary frame of v1's numbers."""
    return frame(BINARY, struct.pack(f"<{len(values)}Q", *values))


#: In UTF-8 within the limit, but not with each é as the six bytes that JSON's escape has.
GROWING = json.dumps({"header": HEADER, "content": {"code": "é" * 400_000}}, ensure_ascii=False).encode()

CLOSED = [
    Row("text where binary belongs", True, frame(TEXT, legacy()), 1003),
    Row("an empty binary message", True, frame(BINARY, b""), 1007),
    Row("bytes that are no message", True, frame(BINARY, b"\xff" * 64), 1007),
    Row("a count of offsets that there is no room for", True, words(60, 8, 9), 1007),
    Row("a count of offsets beyond any message", True, words(1 << 60, 8, 9), 1007),
    Row("an offset beyond the message", True, words(6, 56, 61, 61, 61, 61, 1 << 60) + b"shell", 1007),
    Row("offsets that step back", True, words(6, 56, 61, 60, 61, 61, 61) + b"shell", 1007),
    Row("a message that is cut off", True, frame(BINARY, message()[:-1]), 1007),
    Row("a message with bytes behind it", True, frame(BINARY, message() + b"x"), 1007),
    Row("text that is not UTF-8, in v1", True, frame(TEXT, b"\xff\xfe"), 1007),
    Row("text that is not JSON", False, frame(TEXT, b"{"), 1007),
    Row("an empty text", False, frame(TEXT, b""), 1007),
    Row("JSON that is no object", False, frame(TEXT, b"[]"), 1007),
    Row("JSON that nests a hundred thousand times", False, frame(TEXT, b"[" * 100_000), 1007),
    Row("a message without a header", False, frame(TEXT, legacy(header=None)), 1007),
    Row("a header without a msg_id", False, frame(TEXT, legacy(header={"msg_type": "x"})), 1007),
    Row("content that is no object", False, frame(TEXT, legacy(content=[])), 1007),
    Row("a channel that is no string", False, frame(TEXT, legacy(channel=1)), 1007),
    Row("buffers as JSON", False, frame(TEXT, legacy(buffers=["eA=="])), 1007),
    Row("text that is not UTF-8", False, frame(TEXT, b'{"a": "\xff"}'), 1007),
    Row("binary that is cut off", False, frame(BINARY, b"\0\0\0\2\0\0"), 1007),
    Row("binary with an offset outside", False, frame(BINARY, struct.pack(">3I", 2, 12, 99) + b"{}"), 1007),
    Row("text that is too large once it is v1", False, frame(TEXT, GROWING), 1009),
    Row("a message that is announced too large", True, header(BINARY, MAX_MESSAGE + 1), 1009),
    Row("a message whose pieces are too large", True, PIECE + header(0, MAX_MESSAGE), 1009),
    Row("a piece of nothing", True, frame(0, b"x"), None),
    Row("a message amid another one's pieces", True, PIECE + frame(BINARY, message()), None),
    Row("a reserved opcode", True, frame(0x3, b"x"), None),
    Row("a reserved bit", True, bytes([0xC2]) + frame(BINARY, b"x")[1:], None),
    Row("a control frame that is too long", True, header(0x9, 200) + b"x" * 200, None),
]

IGNORED = [
    Row("a channel that no kernel has", True, frame(BINARY, message().replace(b"shell", b"shelf", 1)), None),
    Row("a message on iopub", True, frame(BINARY, message("iopub")), None),
    Row("a channel that no kernel has, as text", False, frame(TEXT, legacy(channel="hb")), None),
    Row("a message on iopub, as text", False, frame(TEXT, legacy(channel="iopub")), None),
    Row("a pong that answers nothing", True, frame(0xA, b"12345678"), None),
]


def name_of(row: Row) -> str:
    return row.name


@pytest.mark.gen_test
@pytest.mark.parametrize("row", CLOSED, ids=name_of)
async def test_what_breaks_the_protocol_ends_its_websocket_with_a_code_and_leaves_nothing(row: Row):
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, v1=row.v1) as client:
            route = await opened(relay)
            await client.send_bytes(row.sent)
            if row.code is not None:
                code, reason = await client.closed()
                assert code == row.code
                assert reason
                assert len(reason.encode()) <= 123
                # The gateway has let go before the client has answered.
                await until(lambda: server.kernel.connections == 0)
            else:
                await client.ended()
            assert (await relay.hear(Kind.CLOSE)).route == route
        await until(lambda: server.kernel.connections == 0)


@pytest.mark.gen_test
@pytest.mark.parametrize("row", IGNORED, ids=name_of)
async def test_what_leads_nowhere_is_dropped_and_the_websocket_goes_on(row: Row):
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, v1=row.v1) as client:
            await opened(relay)
            await client.send_bytes(row.sent * 3)
            await client.send_bytes(frame(BINARY, message(msg_id="m-9")))
            assert (await relay.hear(Kind.MESSAGE)).payload == message(msg_id="m-9")


@pytest.mark.gen_test
async def test_what_a_client_has_ignored_is_logged_once(caplog):
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            await client.send_bytes(frame(BINARY, message("iopub")) * 100 + frame(BINARY, message()))
            await relay.hear(Kind.MESSAGE)
    assert len([record for record in caplog.records if record.name == "gateway.channels"]) == 1
