"""What is particular to an exec stream: how it opens, how it ends, and what a server could send.

The contract is held in tests/conformance/transport. Here too the API server is a stand-in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketProtocol13

from gateway.transport.base import TransportBrokenError, TransportClosedError
from gateway.transport.exec_arrivals import MOST
from gateway.transport.kube_exec import CHUNK, ExecAddress, KubeExecTransport, TransportRefusedError
from tests.conformance.transport.opened import descriptors, receive_exactly, running, waits
from tests.support.certificates import make_certificate
from tests.support.exec_server import STATUS, STDERR, STDOUT, Command, ExecServer, exit_status

pytestmark = pytest.mark.gen_test(timeout=30)


def address(url: str, **members: Any) -> ExecAddress:
    return ExecAddress(url, "relay", ["relay", "connect"], **members)


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Whatever happens within, no descriptor and no task is left of it."""
    tasks, fds = asyncio.all_tasks(), descriptors()
    yield
    if left := asyncio.all_tasks() - tasks:
        await asyncio.wait(left, timeout=5)
    assert asyncio.all_tasks() == tasks
    assert descriptors() == fds


@contextlib.asynccontextmanager
async def streaming(**options: Any) -> AsyncIterator[tuple[KubeExecTransport, Command]]:
    """A stream and the command at its other end."""
    async with nothing_left():
        server = ExecServer(**options)
        transport = await KubeExecTransport.open(address(server.url), within=5)
        command = await server.command()
        try:
            yield transport, command
        finally:
            server.close()
            await transport.close()
            await command.exit()


@contextlib.asynccontextmanager
async def answering(answer: bytes | None, *, stays: bool = False) -> AsyncIterator[str]:
    """The URL of a pod at a server that gives this answer to everything, and closes unless it `stays`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            if stays:
                await reader.read()
        writer.close()

    async with nothing_left():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1/namespaces/n/pods/p"
        finally:
            server.close()
            await server.wait_closed()


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def status(message: str) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message}).encode()


# -- opening ------------------------------------------------------------------------------------------


async def test_the_request_names_the_command_its_container_its_streams_and_who_asks() -> None:
    server = ExecServer()
    words = ["sh", "-c", 'echo "a&b=c" # \N{SNOWMAN}']
    asked = ExecAddress(server.url, "the relay", words, {"Authorization": "Bearer t0ken"})
    transport = await KubeExecTransport.open(asked, within=5)
    command = await server.command()
    assert command.query == {
        "command": words,
        "container": ["the relay"],
        "stdin": ["true"],
        "stdout": ["true"],
        "stderr": ["true"],
    }
    assert command.headers["Authorization"] == "Bearer t0ken"
    assert command.headers["Sec-WebSocket-Protocol"].split(",") == ["v5.channel.k8s.io", "v4.channel.k8s.io"]
    assert "t0ken" not in repr(asked)
    await transport.close()
    await command.exit()
    server.close()


REFUSALS = {
    "401 with a Status": (http("401 Unauthorized", status("Unauthorized")), 401, "Unauthorized"),
    "403 with a Status": (http("403 Forbidden", status("exec is forbidden")), 403, "exec is forbidden"),
    "404 with a Status": (http("404 Not Found", status('pods "p" not found')), 404, 'pods "p" not found'),
    "500 with a Status": (http("500 Internal", status("no backend")), 500, "no backend"),
    "500 of a kubelet": (
        http("500 Internal", b'container not found ("c")\n', "Content-Type: text/plain; charset=utf-8"),
        500,
        'container not found ("c")',
    ),
    "a book": (
        http("500 Internal", b"\x1b" + b"x" * 9000, "Content-Type: text/plain"),
        500,
        "\ufffd" + "x" * 999,
    ),
    "503 with a page": (http("503 Service Unavailable", b"<html>"), 503, "Service Unavailable"),
    "400 without a body": (http("400 Bad Request"), 400, "Bad Request"),
    "a reason without end": (http("403 " + "x" * 5000), 403, "x" * 1000),
    "a Status that is too large": (http("403 Forbidden", status("x" * 70_000)), 403, "Forbidden"),
    "a redirect": (http("302 Found", b"", "Location: http://127.0.0.1:9/"), 302, "Found"),
}


@pytest.mark.parametrize(("answer", "code", "said"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_has_its_status_and_the_servers_words(answer: bytes, code: int, said: str) -> None:
    async with answering(answer) as url:
        with pytest.raises(TransportRefusedError) as refusal:
            await KubeExecTransport.open(address(url), within=5)
        assert refusal.value.status == code
        assert refusal.value.retry_after is None
        server = url.split("/")[2]
        assert str(refusal.value) == f"the API server at {server} refused the exec stream ({code}): {said}"


AFTER = {
    "seconds": (["Retry-After: 7"], 7.0),
    "none": ([], None),
    "a date": (["Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"], None),
    "below zero": (["Retry-After: -1"], None),
    "for ever": ([f"Retry-After: {'9' * 400}"], None),
}


@pytest.mark.parametrize(("headers", "seconds"), AFTER.values(), ids=AFTER.keys())
async def test_a_server_with_too_much_to_do_says_when_to_ask_again(
    headers: list[str], seconds: float | None
) -> None:
    async with answering(http("429 Too Many Requests", status("too many requests"), *headers)) as url:
        with pytest.raises(TransportRefusedError, match="too many requests") as refusal:
            await KubeExecTransport.open(address(url), within=5)
        assert (refusal.value.status, refusal.value.retry_after) == (429, seconds)


_UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")

NO_WEBSOCKET = {
    "no answer at all": (None, "closed the connection without an answer"),
    "half an answer": (b"HTTP/1.1 101 Sw", "closed the connection without an answer"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "closed the connection without an answer"),
    "a page": (http("200 OK", b"<html>"), "answered, but not with a websocket"),
    "an answer without end": (http("403 No", bytes(2 << 20)), "closed the connection without an answer"),
    "a header without end": (
        b"HTTP/1.1 403 No\r\nA: " + b"a" * 200_000,
        "answered, but not with a websocket",
    ),
    "the key of another": (
        http("101 Switching", b"", *_UPGRADE, "Sec-WebSocket-Accept: x"),
        "closed the connection without an answer",
    ),
    "no key": (http("101 Switching", b"", *_UPGRADE), "closed the connection without an answer"),
}


@pytest.mark.parametrize(("answer", "said"), NO_WEBSOCKET.values(), ids=NO_WEBSOCKET.keys())
async def test_what_is_no_websocket_is_a_named_error(answer: bytes | None, said: str) -> None:
    async with answering(answer) as url:
        with pytest.raises(TransportBrokenError, match=said):
            await KubeExecTransport.open(address(url), within=5)


@pytest.mark.parametrize("subprotocol", [None, "channel.k8s.io"])
async def test_a_server_that_agrees_to_none_of_our_protocols_is_a_named_error(
    subprotocol: str | None,
) -> None:
    async with nothing_left():
        server = ExecServer(subprotocol)
        with pytest.raises(TransportBrokenError, match=r"speaks neither v5\.channel"):
            await KubeExecTransport.open(address(server.url), within=5)
        command = await server.command()
        assert await command.read(1) == b""
        server.close()


async def test_a_port_where_nobody_listens_is_a_named_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with nothing_left():
        with pytest.raises(TransportBrokenError, match=f":{port} cannot be reached: Connection refused"):
            await KubeExecTransport.open(address(f"http://127.0.0.1:{port}/p"), within=5)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_server_that_says_nothing_is_given_up_in_time(scheme: str) -> None:
    async with answering(None, stays=True) as url:
        # Over TLS it is the handshake that is never answered.
        silent = url.replace("http", scheme)
        with pytest.raises(TransportBrokenError, match=r"did not answer within 0\.3 s"):
            await asyncio.wait_for(KubeExecTransport.open(address(silent), within=0.3), 3)


@pytest.mark.parametrize("turns", [*range(40), 100, 1000])
async def test_an_open_that_is_cancelled_at_any_moment_leaves_nothing(turns: int) -> None:
    async with nothing_left():
        server = ExecServer()
        opening = asyncio.create_task(KubeExecTransport.open(address(server.url), within=5))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()
        # What the server has begun it learns the end of.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                command = await server.command()
                assert await command.read(1) == b""
        server.close()


def opening_at(url: str) -> contextlib.AbstractAsyncContextManager[asyncio.Task[Any]]:
    return running(KubeExecTransport.open(address(url), within=20))


async def test_an_open_that_is_cancelled_while_the_server_is_silent_leaves_nothing() -> None:
    async with answering(None, stays=True) as url, opening_at(url) as opening:
        assert await waits(opening)


async def test_twenty_streams_open_at_once() -> None:
    async with nothing_left():
        server = ExecServer()
        opening = [KubeExecTransport.open(address(server.url), within=10) for _ in range(20)]
        transports = await asyncio.gather(*opening)
        commands = [await server.command() for _ in transports]
        for command in commands:
            await command.exit()
        assert [await transport.receive() for transport in transports] == [b""] * 20
        for transport in transports:
            await transport.close()
        server.close()


async def test_small_messages_wait_for_nothing_and_the_system_holds_little() -> None:
    async with streaming() as (transport, _):
        sock = transport._connection.stream.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            # Linux doubles what is asked for.
            assert sock.getsockopt(socket.SOL_SOCKET, buffer) <= 1024 * 1024


# -- TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "both.pem")


def servers(certificate: Path, *, asks: bool = False) -> ssl.SSLContext:
    """A server's settings; one that `asks` wants the client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    if asks:
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_bytes_go_both_ways_over_tls_with_a_client_certificate(certificate: Path) -> None:
    async with nothing_left():
        server = ExecServer(tls=servers(certificate, asks=True))
        context = ssl.create_default_context(cafile=certificate)
        context.load_cert_chain(certificate)
        transport = await KubeExecTransport.open(address(server.url, ssl_context=context), within=5)
        command = await server.command()
        data = bytes(range(256)) * 10_000
        async with running(transport.send(data)):
            assert await command.read(len(data)) == data
        async with running(command.write(data)):
            assert await receive_exactly(transport, len(data)) == data
        await command.exit()
        assert await transport.receive() == b""
        await transport.close()
        server.close()


async def test_a_certificate_of_nobody_known_is_a_named_error(certificate: Path) -> None:
    async with nothing_left():
        server = ExecServer(tls=servers(certificate))
        for context in (None, ssl.create_default_context()):
            with pytest.raises(TransportBrokenError, match="is not trusted: self-signed certificate"):
                await KubeExecTransport.open(address(server.url, ssl_context=context), within=5)
        server.close()


async def test_a_certificate_for_another_name_is_a_named_error(certificate: Path) -> None:
    async with nothing_left():
        server = ExecServer(tls=servers(certificate))
        context = ssl.create_default_context(cafile=certificate)
        url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(TransportBrokenError, match="is not trusted: Hostname mismatch"):
            await KubeExecTransport.open(address(url, ssl_context=context), within=5)
        server.close()


async def test_a_server_that_asks_for_a_certificate_in_vain_is_a_named_error(certificate: Path) -> None:
    async with nothing_left():
        server = ExecServer(tls=servers(certificate, asks=True))
        context = ssl.create_default_context(cafile=certificate)
        with pytest.raises(TransportBrokenError, match=r"TLS|without an answer"):
            await KubeExecTransport.open(address(server.url, ssl_context=context), within=5)
        server.close()


async def test_a_server_without_tls_is_a_named_error(certificate: Path) -> None:
    async with answering(http("200 OK")) as url:
        context = ssl.create_default_context(cafile=certificate)
        silent = url.replace("http", "https")
        with pytest.raises(TransportBrokenError):
            await KubeExecTransport.open(address(silent, ssl_context=context), within=1)


# -- how it ends --------------------------------------------------------------------------------------


async def test_an_exit_with_0_is_the_end_of_the_stream() -> None:
    async with streaming() as (transport, command):
        assert transport.ended is None
        await command.write(b"last")
        await command.exit(0)
        assert await receive_exactly(transport, 5) == b"last"
        assert transport.ended is not None
        assert transport.ended.code == 0
        with pytest.raises(TransportBrokenError, match="the command ended with exit code 0"):
            await transport.send(b"x")


@pytest.mark.parametrize("code", [1, 137])
async def test_another_exit_code_is_a_broken_stream_that_tells_it_and_the_last_words(code: int) -> None:
    async with streaming() as (transport, command):
        await command.write(b"last")
        await command.message(STDERR, b"relay: no relay listens\n")
        await command.message(STDERR, b"in /run: gone\n")
        await command.exit(code)
        assert await receive_exactly(transport, 4) == b"last"
        told = (
            f"^the command ended with exit code {code}; it last wrote: relay: no relay listens in /run: gone$"
        )
        for _ in range(2):
            with pytest.raises(TransportBrokenError, match=told):
                await transport.receive()
        with pytest.raises(TransportBrokenError, match=told):
            await transport.send(b"x")
        assert transport.ended is not None
        assert (transport.ended.code, transport.ended.reason) == (code, "NonZeroExitCode")


async def test_a_refusal_of_the_kubelet_is_a_broken_stream_that_tells_it() -> None:
    async with streaming() as (transport, command):
        refusal = {
            "status": "Failure",
            "reason": "InternalError",
            "message": "no such container",
            "code": 500,
        }
        await command.status(json.dumps(refusal).encode())
        with pytest.raises(
            TransportBrokenError, match=r"^the API server ended the stream: no such container$"
        ):
            await transport.receive()
        assert transport.ended is not None
        assert (transport.ended.code, transport.ended.reason) == (None, "InternalError")


async def test_a_connection_that_ends_without_a_status_is_a_broken_stream() -> None:
    async with streaming() as (transport, command):
        await command.write(b"last")
        command.cut()
        assert await receive_exactly(transport, 4) == b"last"
        with pytest.raises(TransportBrokenError, match="ended before the command did"):
            await transport.receive()
        assert transport.ended is None


async def test_a_websocket_that_is_closed_without_a_status_is_a_broken_stream() -> None:
    async with streaming() as (transport, command):
        await command.write(b"last")
        await command.raw(b"\x88\x02" + struct.pack("!H", 1000))
        assert await receive_exactly(transport, 4) == b"last"
        with pytest.raises(TransportBrokenError, match="ended before the command did"):
            await transport.receive()
        assert transport.ended is None


async def test_a_send_that_waits_learns_how_the_command_ended() -> None:
    async with streaming() as (transport, command), running(transport.send(bytes(64 << 20))) as sending:
        assert await waits(sending)
        # The server keeps the connection, so that nothing but the Status can end the waiting.
        await command.message(STATUS, json.dumps({"status": "Failure", "message": "evicted"}).encode())
        with pytest.raises(TransportBrokenError, match="evicted"):
            await sending


async def test_the_last_words_are_the_end_of_what_was_written_and_no_more() -> None:
    async with streaming() as (transport, command), running(transport.receive()) as receiving:
        for _ in range(100):
            await command.message(STDERR, b"\x1b[2J" + b"e" * 30_000)
        await command.message(STDERR, b"the end")
        await command.exit(1)
        with pytest.raises(TransportBrokenError) as broken:
            await receiving
        assert str(broken.value).endswith("eee" + "the end")
        assert len(str(broken.value)) < 2100


async def test_an_end_that_comes_with_the_servers_consent_is_not_lost() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = request.partition("Sec-Websocket-Key: ")[2].partition("\r\n")[0]
        said = json.dumps(exit_status(7)).encode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"
            + f"Sec-WebSocket-Accept: {WebSocketProtocol13.compute_accept_value(key)}\r\n\r\n".encode()
            + b"\x82\x05\x01last"
            + (b"\x82\x7e" + struct.pack("!H", len(said) + 1) + bytes([STATUS]) + said)
        )
        writer.close()

    async with nothing_left():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/p"
        transport = await KubeExecTransport.open(address(url), within=5)
        assert await transport.receive() == b"last"
        with pytest.raises(TransportBrokenError, match="exit code 7"):
            await transport.receive()
        await transport.close()
        server.close()
        await server.wait_closed()


# -- what a server could send -------------------------------------------------------------------------


async def test_what_is_on_no_channel_of_ours_is_dropped() -> None:
    async with streaming() as (transport, command):
        for message in (
            b"",
            b"\x00",
            b"\x00x",
            b"\x01",
            b"\x02",
            b"\x03",
            b"\x04{}",
            b"\xff",
            b"\xff\x01",
            b"\x09x",
        ):
            await command.raw(b"\x82" + bytes([len(message)]) + message)
        await command.write(b"x")
        assert await transport.receive() == b"x"


async def test_text_ends_the_stream_with_a_reason() -> None:
    async with streaming() as (transport, command):
        await command.write(b"last")
        await command.text("\x01hello")
        assert await receive_exactly(transport, 4) == b"last"
        with pytest.raises(TransportBrokenError, match="sent text"):
            await transport.receive()
        assert await command.read(1) == b""


async def test_a_message_of_the_largest_size_is_received_whole() -> None:
    async with streaming() as (transport, command), running(command.message(STDOUT, bytes(MOST - 1))):
        assert await transport.receive() == bytes(MOST - 1)


FRAMES = {
    "a message above the bound": (b"\x82\x7f" + struct.pack("!Q", MOST + 1), "message too big"),
    "a message of almost 2**64": (b"\x82\x7f" + struct.pack("!Q", 2**64 - 1), "message too big"),
    "pieces above the bound": (
        (b"\x02\x7f" + struct.pack("!Q", MOST) + bytes(MOST)) + b"\x80\x01x",
        "message too big",
    ),
    "a piece of nothing": (b"\x80\x01x", "ended before"),
    "a reserved bit": (b"\xc2\x01x", "ended before"),
    "an unknown kind": (b"\x83\x01x", "ended before"),
    "text that is none": (b"\x81\x01\xff", "ended before"),
    "a large ping": (b"\x89\x7e\xff\xff", "ended before"),
}


@pytest.mark.parametrize(("frame", "said"), FRAMES.values(), ids=FRAMES.keys())
async def test_a_frame_that_breaks_the_rules_ends_the_stream_and_nothing_else(
    frame: bytes, said: str
) -> None:
    async with streaming() as (transport, command):
        await command.write(b"last")
        async with running(command.raw(frame)):
            assert await receive_exactly(transport, 4) == b"last"
            with pytest.raises(TransportBrokenError, match=said):
                await transport.receive()
            with pytest.raises(TransportBrokenError):
                await transport.send(b"x")
            assert await command.read(1) == b""


async def test_a_flood_of_pings_stops_nothing() -> None:
    async with streaming() as (transport, command):
        await command.raw(b"\x89\x02hi" * 10_000)
        await command.write(b"x")
        await transport.send(b"y")
        assert await command.read(1) == b"y"
        assert await transport.receive() == b"x"


# -- what is sent -------------------------------------------------------------------------------------


async def test_what_is_sent_goes_in_messages_of_bounded_size() -> None:
    async with streaming() as (transport, command), running(transport.send(bytes(3 * CHUNK + 5))):
        assert await command.read(3 * CHUNK + 5) == bytes(3 * CHUNK + 5)
        assert command.sizes == [CHUNK + 1] * 3 + [6]


async def test_the_half_close_is_two_bytes() -> None:
    async with streaming() as (transport, command):
        await transport.send_eof()
        assert await command.read(1) == b""
        assert command.sizes == [2]
        with pytest.raises(TransportClosedError):
            await transport.send(b"x")
