"""Slow, vanishing and doubled clients: bounded, noticed, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler

from gateway.web.channels import ChannelsHandler
from gateway.web.connection import Connection
from gateway.wire.framing import SEQUENCE, Kind
from gateway.wire.window import reach
from tests.support.patience import PATIENCE, until
from tests.unit.web_channels.raw_client import BINARY, CLOSE, PING, PONG, RawClient, frame, header
from tests.unit.web_channels.serving import (
    MAX_MESSAGE,
    WINDOW,
    closed,
    gateway,
    message,
    opened,
    parts,
    received,
)

TAKEN_OVER = (1000, "This session goes on in another connection.")

# -- slow ---------------------------------------------------------------------------------------------


#: What the gateway may hold for one client: twice what an honest relay may send, as what is on its way out is
#: counted no more; and what TCP takes (tcp_wmem: 4 MiB).
HELD = 2 * reach(WINDOW, MAX_MESSAGE) + (6 << 20)


async def read_on(client: RawClient) -> tuple[list[bytes], bytes | None]:
    """The messages that come, with every ping answered, and the close frame; None if nothing more comes."""
    seen: list[bytes] = []
    while True:
        try:
            opcode, payload = await client.frame(within=1)
        except TimeoutError:
            return seen, None
        if opcode == PING:
            await client.send(PONG, payload)
        elif opcode == CLOSE:
            return seen, payload
        else:
            seen.append(payload)


@pytest.mark.gen_test(timeout=30)
async def test_a_client_that_has_not_read_for_a_while_gets_all_that_an_honest_relay_sends():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, receive_buffer=1 << 16) as client:
            await opened(relay)
            size = reach(WINDOW, MAX_MESSAGE) - MAX_MESSAGE
            bodies = [message("iopub", f"m-{n}", b"x" * 60_000) for n in range(size // 61_000)]
            for body in bodies:
                relay.say_message(body)
            await settled(lambda: relay.transport.received)
            assert await read_on(client) == (bodies, None)


@pytest.mark.gen_test(timeout=60)
async def test_a_client_that_reads_too_slowly_for_a_relay_without_bounds_comes_back_for_the_rest():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, "session_id=one", receive_buffer=1 << 16) as client:
            route = await opened(relay)
            bodies = [message("iopub", f"m-{number}", b"x" * 60_000) for number in range(1500)]
            for body in bodies:
                relay.say_message(body)
            assert await settled(lambda: relay.transport.received) > HELD
            seen, closing = await read_on(client)
            assert seen == bodies[: len(seen)], "it has all of the first"
            assert len(seen) * 60_000 < HELD
            assert closing is not None
            assert (closing[:2], closing[2:15]) == ((1013).to_bytes(2, "big"), b"This client r")
            last = 0
            while (heard := await relay.hear(Kind.ACK, Kind.CLOSE)).kind is not Kind.CLOSE:
                (last,) = SEQUENCE.unpack(heard.payload)
            assert heard.route == route
            assert 0 < last <= len(seen)
        async with await RawClient.open(server, "session_id=one") as client:
            again = await opened(relay)
            relay.say(Kind.MESSAGE, again, bodies[last], last + 1)
            assert await client.frame() == (BINARY, bodies[last])


@pytest.mark.gen_test
async def test_a_client_that_never_reads_is_given_up_by_the_keepalive():
    async with gateway(websocket_ping_interval=0.2) as server:
        relay = await server.relay()
        async with await RawClient.open(server, receive_buffer=1 << 16) as client:
            route = await opened(relay)
            for number in range(200):
                relay.say_message(message("iopub", f"m-{number}", b"x" * 60_000))
            assert (await relay.hear(Kind.CLOSE)).route == route
            assert server.kernel.connections == 0
            client.abort()


@pytest.mark.gen_test(timeout=20)
async def test_what_a_kernel_does_not_take_is_not_read_from_the_client():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            request = message("shell", "m-1", b"x" * 100_000)
            sending = asyncio.create_task(client.send_bytes(frame(BINARY, request) * 300))
            # The relay acknowledges nothing.
            await settled(lambda: server.metrics.registry.get_sample_value(*BYTES_IN) or 0)
            assert not sending.done()
            assert (server.metrics.registry.get_sample_value(*BYTES_IN) or 0) < 4 << 20
            sending.cancel()


BYTES_IN = ("jupyter_gateway_websocket_bytes_total", {"direction": "in"})


async def settled(value) -> float:
    """The value once it has not changed for 0.3 s."""
    last = -1
    async with asyncio.timeout(PATIENCE):
        while (now := value()) != last:
            last = now
            await asyncio.sleep(0.3)
    return last


# -- vanishing ----------------------------------------------------------------------------------------

#: What a client has sent when it vanishes.
MOMENTS = {
    "idle": b"",
    "inside a frame's header": header(BINARY, 70_000)[:3],
    "inside a message": header(BINARY, 70_000) + b"x" * 100,
    "between the pieces of a message": frame(BINARY, b"x", final=False),
    "behind a request": frame(BINARY, message()),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("orderly", [True, False])
async def test_a_client_that_vanishes_is_let_go_at_once(moment: str, orderly: bool):
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            route = await opened(relay)
            await client.send_bytes(MOMENTS[moment])
            await asyncio.sleep(0)
            if orderly:
                client.socket.close()
            else:
                client.abort()
            assert (await relay.hear(Kind.CLOSE)).route == route
            assert server.kernel.connections == 0


@pytest.mark.gen_test
async def test_a_client_that_vanishes_while_its_kernel_starts_takes_its_request_with_it(caplog):
    async with gateway(held=True) as server:
        async with await RawClient.open(server) as client:
            await client.send_bytes(frame(BINARY, message()))
            await until(lambda: server.metrics.registry.get_sample_value(*BYTES_IN) is not None)
            client.abort()
            await until(lambda: server.kernel.connections == 0)
        server.backend.held.set()
        relay = await server.relay()
        with pytest.raises(TimeoutError):
            await relay.hear(Kind.MESSAGE, within=0.2)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.gen_test
async def test_nothing_of_a_websocket_that_has_ended_is_kept_alive(monkeypatch):
    monkeypatch.setattr("gateway.web.connection.RECEIPT_DELAY", 3600)
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            relay.say_message(message("iopub"))
            assert (await client.frame())[0] == BINARY
            assert len(living(Connection)) == 1
        await relay.hear(Kind.CLOSE)
        await until(lambda: not living(Connection, ChannelsHandler))


def living(*kinds: type) -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, kinds)]


@pytest.mark.gen_test
async def test_a_client_that_closes_is_answered_with_its_own_code():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect()
        route = await opened(relay)
        client.close(1001, "reload")
        assert (await closed(client))[0] == 1001
        assert (await relay.hear(Kind.CLOSE)).route == route


# -- doubled ------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_second_websocket_takes_its_session_over_and_the_older_one_is_told():
    async with gateway() as server:
        relay = await server.relay()
        older = await server.connect("session_id=one")
        first = await opened(relay)
        newer = await server.connect("session_id=one")
        assert (await relay.hear(Kind.CLOSE)).route == first
        second = await opened(relay)
        assert await closed(older) == TAKEN_OVER
        assert server.kernel.connections == 1
        relay.say_message(message("iopub"), second)
        assert await received(newer) == message("iopub")


@pytest.mark.gen_test
async def test_a_client_that_would_come_back_whatever_it_is_told_is_left_open_and_silent():
    """jupyter_server's reconnects after any close, and would take the session to a browser that is gone."""
    async with gateway() as server:
        relay = await server.relay()
        older = await server.connect("session_id=one", v1=False)
        first = await opened(relay)
        newer = await server.connect("session_id=one", v1=False)
        assert (await relay.hear(Kind.CLOSE)).route == first
        second = await opened(relay)
        relay.say_message(message("iopub"))
        assert json.loads(await received(newer))["channel"] == "iopub"
        silence = asyncio.ensure_future(older.read_message())
        done, _ = await asyncio.wait([silence], timeout=0.3)
        assert not done
        # It is told as soon as it speaks, and what it says goes nowhere.
        await older.write_message(json.dumps({"header": json.loads(parts()[0])}))
        assert await asyncio.wait_for(silence, 5) is None
        assert (older.close_code, older.close_reason) == TAKEN_OVER
        await newer.write_message(json.dumps({"header": json.loads(parts("m-9")[0])}))
        sent = await relay.hear(Kind.MESSAGE)
        assert (sent.route, b"m-9" in sent.payload) == (second, True)
        assert server.kernel.connections == 1


@pytest.mark.gen_test
async def test_websockets_without_a_session_id_have_a_session_each():
    async with gateway() as server:
        relay = await server.relay()
        names = set()
        for _ in range(3):
            await server.connect()
            names.add(json.loads((await relay.hear(Kind.OPEN)).payload)["session_id"])
        assert len(names) == 3
        assert server.kernel.connections == 3


# -- Tornado ------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_tornado_hands_the_stream_over_by_the_public_method_that_is_watched(monkeypatch):
    """`ChannelsHandler.detach` is how the stream is had; frames of two writers on it never mix."""
    seen = []
    detach = WebSocketHandler.detach
    monkeypatch.setattr(WebSocketHandler, "detach", lambda self: seen.append(detach(self)) or seen[-1])
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            assert [type(stream) for stream in seen] == [IOStream]
            assert seen[0].socket.getpeername() == client.socket.getsockname()
            assert seen[0].max_buffer_size > server.kernels.max_message_size
