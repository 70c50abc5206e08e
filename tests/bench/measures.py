"""What is measured of a target. Figures are raw: seconds, bytes, and counts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from . import processes
from .client import Client, missing
from .targets import Server, Target
from .websocket import WebSocketClient

#: Stream messages of a flood.
FLOOD = 100_000
#: And for others than this gateway: at the peers' pace, 100,000 would be most of the bench. What is compared
#: is per message, and theirs was the same with 100,000 (v1: 195 and 345 us of processor time a message in
#: place of 202 and 335).
FLOOD_OF_OTHERS = 25_000

BIG = 10 * 1024 * 1024

#: Bytes that a slow reader has coming, and the texts that they come in.
SLOW = 300 * 1024 * 1024
SLOW_TEXTS = {"4KiB": 4 * 1024, "1MiB": 1024 * 1024}

#: Signs the messages before the clock starts and hands them to the kernel's own iopub thread, so that what is
#: measured is the way out and not the kernel. Its socket's high-water mark is lifted: what the kernel itself
#: drops, no gateway can deliver. Each text starts with its number.
PREPARE = """
import sys
_k = get_ipython().kernel
_s = _k.session
def _flood(n, size):
    parent = _k.get_parent()
    thread = _k.iopub_thread
    thread.socket.sndhwm = 0
    def made(i):
        content = {"name": "stdout", "text": str(i).ljust(size, "x")}
        return [b"stream", *_s.serialize(_s.msg("stream", content, parent=parent))]
    messages = [made(i) for i in range(n)]
    import threading
    sent = threading.Event()
    def send():
        for each in messages:
            thread.socket.send_multipart(each)
        sent.set()
    thread.schedule(send)
    sent.wait()
"""


def cold_start(target: Target) -> float:
    """From the request for a kernel to the result of its first cell."""
    start = time.perf_counter()
    with target.kernel() as client:
        client.execute("1 + 1")
        return time.perf_counter() - start


def round_trips(client: Client, count: int = 200, seconds: float = 3.0) -> list[float]:
    """`pass`, from the request to reply and idle; fewer than `count` where those would take too long."""
    for _ in range(20):
        client.execute("pass")
    times: list[float] = []
    while len(times) < count and sum(times) < seconds:
        start = time.perf_counter()
        client.execute("pass")
        times.append(time.perf_counter() - start)
    return times


def flood(target: Target, client: Client, count: int) -> dict[str, float]:
    """`count` small stream messages: how many never came, how fast the others, and what it cost.

    `cpu_per_message` is the server's own process. What else is known to work for it is told beside it: a
    relay does in the sandbox what other gateways do in the server.
    """
    client.execute(PREPARE)
    spenders = target.spenders()
    before = {name: processes.times(pids) for name, pids in spenders.items()}
    heard = client.execute(f"_flood({count}, 0)")
    spent = {
        f"{name}cpu_per_message": sum(
            now - before[name].get(pid, now) for pid, now in processes.times(pids).items()
        )
        / count
        for name, pids in spenders.items()
    }
    return {"lost": missing(heard.heads, count), "rate": heard.rate(), **spent}


def big_output(client: Client, count: int = 5) -> float:
    """Bytes per second of 10 MiB text outputs."""
    code = f"import sys; sys.stdout.write('x' * {BIG}); sys.stdout.flush()"
    client.execute(code)
    start = time.perf_counter()
    size = sum(client.execute(code).size for _ in range(count))
    return size / (time.perf_counter() - start)


def slow_reader(server: Server, client: WebSocketClient, text: int) -> dict[str, float]:
    """`SLOW` bytes in texts of `text` bytes, for a client that reads nothing while the server takes on more.

    The server's growth in bytes, the relay's beside it where there is one, and how many messages never came.
    """
    client.execute(PREPARE)
    relays = processes.relays(server.running_pid)
    before = {pid: processes.memory(pid) for pid in (server.running_pid, *relays)}
    processes.forget_peak(server.running_pid)
    count = SLOW // text
    heard = client.execute(f"_flood({count}, {text})", pause=lambda: _until_still(server, client))
    growth = {pid: max(0, processes.peak(pid) - was) for pid, was in before.items()}
    return {
        "growth": growth[server.running_pid],
        **({"relay_growth": sum(growth[relay] for relay in relays)} if relays else {}),
        "lost": missing(heard.heads, count),
    }


def twenty_kernels(server: Server, count: int = 20) -> dict[str, float]:
    """Resident bytes with 20 used kernels, and the server's descriptors for each, client included.

    `relay_memory` is that of all relays, and counts what they share once for each.
    """
    with server.kernel() as client:
        client.execute("1 + 1")
    # Counted when a first kernel has come and gone: what a server keeps for a kernelspec is not a kernel's.
    before = processes.descriptors(server.running_pid)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(server.kernel()).execute("1 + 1")
        relays = processes.relays(server.running_pid)
        return {
            "memory": processes.memory(server.running_pid),
            **({"relay_memory": sum(map(processes.memory, relays))} if relays else {}),
            "descriptors": (processes.descriptors(server.running_pid) - before) / count,
        }


def _until_still(server: Server, client: WebSocketClient, still: float = 1.0, longest: float = 30.0) -> None:
    """Return once the flood has come to a client that does not read, and the server has stopped growing.

    Still for `still` seconds, that is; after `longest` at the latest, for one that never stops.
    """
    deadline = time.monotonic() + 120
    # More than what tells that the cell has begun; the kernel signs its messages before the first is sent.
    while client.unread() < 16 * 1024:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{server.name}: no flood for the slow reader")
        time.sleep(0.02)
    most = processes.memory(server.running_pid)
    since = begun = time.monotonic()
    while time.monotonic() - since < still and time.monotonic() - begun < longest:
        time.sleep(0.05)
        now = processes.memory(server.running_pid)
        if now > most:
            most, since = now, time.monotonic()


@contextlib.contextmanager
def at_once(target: Target, count: int) -> Iterator[dict[str, float]]:
    """`count` kernels started at once, until each has given its first result or failed; up until this ends.

    Seconds that it took in all, and how many failed; why is told.
    """
    stacks = [contextlib.ExitStack() for _ in range(count)]

    def start(stack: contextlib.ExitStack) -> bool:
        try:
            stack.enter_context(target.kernel()).execute("1 + 1")
        except Exception as error:
            print(f"{target.name}: a start failed: {error}", file=sys.stderr)
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        begun = time.perf_counter()
        try:
            well = list(pool.map(start, stacks))
            yield {"start": time.perf_counter() - begun, "failed": well.count(False)}
        finally:
            list(pool.map(contextlib.ExitStack.close, stacks))
