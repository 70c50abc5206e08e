"""What a client has taken is known from its pongs alone, and is told to the relay."""

from __future__ import annotations

import asyncio

import pytest

from gateway.web.connection import Receipts
from gateway.wire.framing import Kind
from tests.support.patience import until
from tests.unit.web_channels.raw_client import BINARY, CLOSE, PING, PONG, RawClient, frame
from tests.unit.web_channels.serving import acknowledged, gateway, message, opened, received


@pytest.mark.gen_test
async def test_a_library_acknowledges_by_itself_what_it_has_taken():
    async with gateway() as server:
        relay = await server.relay()
        client = await server.connect()
        route = await opened(relay)
        sequence = relay.say_message(message("iopub"))
        assert await received(client) == message("iopub")
        assert await acknowledged(relay, route) == sequence


@pytest.mark.gen_test
async def test_few_bytes_are_asked_about_after_a_while_and_acknowledged_when_the_pong_comes():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            route = await opened(relay)
            for _ in range(3):
                sequence = relay.say_message(message("iopub"))
            asked = asyncio.get_running_loop().time()
            assert [(await client.frame())[0] for _ in range(3)] == [BINARY] * 3
            opcode, payload = await client.frame()
            assert opcode == PING
            assert 0.1 < asyncio.get_running_loop().time() - asked < 2
            with pytest.raises(TimeoutError):
                await relay.hear(Kind.ACK, within=0.1)
            await client.send(PONG, payload)
            assert await acknowledged(relay, route) == sequence


@pytest.mark.gen_test
async def test_many_bytes_are_asked_about_at_once_and_one_question_is_open_at_a_time(monkeypatch):
    monkeypatch.setattr("gateway.web.connection.RECEIPT_DELAY", 3600)
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            route = await opened(relay)
            first = relay.say_message(message("iopub", "m-1", b"x" * 100_000))
            question = await client.frame_of(PING)
            for _ in range(5):
                last = relay.say_message(message("iopub", "m-2", b"x" * 100_000))
            for _ in range(5):
                assert (await client.frame())[0] == BINARY
            with pytest.raises(TimeoutError):
                await client.frame(within=0.5)
            await client.send(PONG, question)
            assert await acknowledged(relay, route) == first
            await client.send(PONG, await client.frame_of(PING))
            assert await acknowledged(relay, route) == last


@pytest.mark.gen_test
async def test_nothing_is_asked_any_more_once_a_websocket_has_ended(monkeypatch):
    monkeypatch.setattr("gateway.web.connection.RECEIPT_DELAY", 0.05)
    asked: list[bytes] = []
    acknowledged: list[int] = []
    receipts = Receipts(asked.append, acknowledged.append)
    receipts.sent(1, 10)
    await until(lambda: len(asked) == 1)
    receipts.sent(2, 10)
    receipts.close()
    receipts.answered(asked[0])
    receipts = Receipts(asked.append, acknowledged.append)
    receipts.sent(1, 10)
    receipts.close()
    await asyncio.sleep(0.2)
    assert (len(asked), acknowledged) == (1, [])


@pytest.mark.gen_test
async def test_an_answer_that_was_not_asked_for_acknowledges_nothing():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            relay.say_message(message("iopub"))
            assert (await client.frame())[0] == BINARY
            for forged in (b"", (1).to_bytes(8, "little"), (1 << 63).to_bytes(8, "little"), b"x" * 125):
                await client.send(PONG, forged)
            question = await client.frame_of(PING)
            await client.send(PONG, question + b"x")
            with pytest.raises(TimeoutError):
                await relay.hear(Kind.ACK, within=0.3)


@pytest.mark.gen_test
async def test_tornados_keepalive_goes_on_beside_the_receipts():
    async with gateway(websocket_ping_interval=0.1) as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            route = await opened(relay)
            sequence = relay.say_message(message("iopub", "m-1", b"x" * 100_000))
            receipt = sequence.to_bytes(8, "little")
            # For several times the timeout only Tornado's pings are answered, and that is enough for it.
            seen = []
            while seen.count(b"") < 5:
                seen.append(await client.frame_of(PING))
                if seen[-1] == b"":
                    await client.send(PONG, b"")
            assert seen.count(receipt) == 1
            assert server.kernel.connections == 1
            await client.send(PONG, receipt)
            assert await acknowledged(relay, route) == sequence


@pytest.mark.gen_test
async def test_a_client_that_takes_pings_and_answers_none_is_closed_with_a_code_on_which_clients_come_back():
    async with gateway(websocket_ping_interval=0.1) as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            route = await opened(relay)
            # JupyterLab gives up after 1000 and 1001; this end was not meant.
            assert await client.closed() == (4408, "ping timed out")
            assert (await relay.hear(Kind.CLOSE)).route == route
            await until(lambda: server.kernel.connections == 0)


class SlowClient(RawClient):
    """Reads all the time, about 2 MB/s."""

    async def _fill(self) -> None:
        await asyncio.sleep(0.03)
        await super()._fill()


@pytest.mark.gen_test(timeout=30)
async def test_a_client_on_a_slow_line_is_alive_while_it_takes_what_was_sent_before_the_ping():
    interval = 0.5
    async with gateway(websocket_ping_interval=interval) as server:
        relay = await server.relay()
        async with await SlowClient.open(server, receive_buffer=1 << 16) as client:
            await opened(relay)
            began = asyncio.get_running_loop().time()
            for number in range(6):
                relay.say_message(message("iopub", f"m-{number}", b"x" * 900_000))
            seen = 0
            while seen < 6:
                opcode, payload = await client.frame()
                assert opcode in (BINARY, PING)
                seen += opcode == BINARY
                if opcode == PING:
                    await client.send(PONG, payload)
            assert asyncio.get_running_loop().time() - began > 4 * interval
            assert server.kernel.connections == 1


@pytest.mark.gen_test
async def test_a_client_is_alive_while_its_message_is_on_the_way():
    async with gateway(websocket_ping_interval=0.1) as server:
        relay = await server.relay()
        async with await RawClient.open(server) as client:
            await opened(relay)
            sent = frame(BINARY, message("shell", "m-1", b"x" * 600_000))
            # Nothing else can be sent inside a frame, so no ping is answered.
            for start in range(0, len(sent), 100_000):
                await client.frame_of(PING)
                await client.send_bytes(sent[start : start + 100_000])
            assert (await relay.hear(Kind.MESSAGE)).payload.endswith(b"xxx")


@pytest.mark.gen_test
async def test_a_client_is_alive_while_its_kernel_does_not_take_what_it_sent():
    async with gateway(websocket_ping_interval=0.1) as server:
        await server.relay()  # and it acknowledges nothing
        async with await RawClient.open(server) as client:
            request = frame(BINARY, message("shell", "m-1", b"x" * 100_000))
            sending = asyncio.create_task(client.send_bytes(request * 300))
            # Its pongs are behind what is not read.
            for _ in range(10):
                assert await client.frame_of(PING, CLOSE) == b""
            assert not sending.done()
            assert server.kernel.connections == 1
            sending.cancel()


@pytest.mark.gen_test
async def test_what_was_not_acknowledged_is_left_to_the_sessions_next_websocket():
    async with gateway() as server:
        relay = await server.relay()
        async with await RawClient.open(server, "session_id=one") as client:
            first = await opened(relay)
            relay.say_message(message("iopub"))
            await client.frame_of(BINARY)
        assert (await relay.hear(Kind.CLOSE)).route == first
        again = await server.connect("session_id=one")
        second = await opened(relay)
        # What the relay sends again has its old number, and may be acknowledged by it.
        relay.say(Kind.MESSAGE, second, message("iopub"), 1)
        assert await received(again) == message("iopub")
        assert await acknowledged(relay, second) == 1
