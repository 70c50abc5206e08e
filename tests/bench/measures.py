"""What is measured of a target; each function takes figures and returns them raw, in seconds and bytes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from .client import Client
from .targets import Target

TICK = os.sysconf("SC_CLK_TCK")
FLOOD = 100_000
BIG = 10 * 1024 * 1024
SLOW = 300 * 1024 * 1024

#: Signs the messages before the clock starts and hands them to the kernel's own iopub thread, so that what is
#: measured is the way out and not the kernel. Its socket's high-water mark is lifted: what the kernel itself
#: drops, no gateway can deliver.
PREPARE = f"""
import sys
_k = get_ipython().kernel
_s = _k.session
def _flood(n={FLOOD}, _parent=None):
    parent = _k.get_parent()
    thread = _k.iopub_thread
    thread.socket.sndhwm = 0
    made = [
        [b"stream", *_s.serialize(_s.msg("stream", {{"name": "stdout", "text": str(i)}}, parent=parent))]
        for i in range(n)
    ]
    import threading
    sent = threading.Event()
    def send():
        for each in made:
            thread.socket.send_multipart(each)
        sent.set()
    thread.schedule(send)
    sent.wait()
"""


def cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(pid: int) -> int:
    """The most that `memory` has been, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cold_start(target: Target) -> float:
    """From the request for a kernel to the result of its first cell."""
    start = time.perf_counter()
    with target.kernel() as client:
        client.execute("1 + 1")
        return time.perf_counter() - start


def round_trips(client: Client, count: int = 200) -> list[float]:
    """`pass`, from the request to reply and idle."""
    for _ in range(20):
        client.execute("pass")
    times = []
    for _ in range(count):
        start = time.perf_counter()
        client.execute("pass")
        times.append(time.perf_counter() - start)
    return times


def flood(target: Target, client: Client) -> dict[str, float]:
    """100,000 small stream messages: how many came, how fast, and what the server's process spent."""
    client.execute(PREPARE)
    before = cpu(target.pid) if target.pid else 0.0
    received, _ = client.execute("_flood()")
    spent = cpu(target.pid) - before if target.pid else 0.0
    return {
        "lost": FLOOD - received,
        "rate": received / (client.last - client.first),
        "cpu_per_message": spent / FLOOD,
    }


def big_output(client: Client, count: int = 5) -> float:
    """Bytes per second of 10 MiB text outputs."""
    code = f"import sys; sys.stdout.write('x' * {BIG}); sys.stdout.flush()"
    client.execute(code)
    start = time.perf_counter()
    size = sum(client.execute(code)[1] for _ in range(count))
    return size / (time.perf_counter() - start)


def slow_reader(target: Target, client: Client, pause: float = 4.0) -> dict[str, float]:
    """300 MiB for a client that does not read for a while: the server's growth and the loss, in bytes."""
    if target.pid is None:
        raise ValueError("a bare kernel has no server that could grow")
    chunk = 1024 * 1024
    code = (
        f"import sys\nfor _ in range({SLOW // chunk}):\n  sys.stdout.write('x' * {chunk}); sys.stdout.flush()"
    )
    Path(f"/proc/{target.pid}/clear_refs").write_text("5")  # the peak counts from here (proc(5))
    before = memory(target.pid)
    _, size = client.execute(code, pause=lambda: time.sleep(pause))
    return {"growth": max(0, peak(target.pid) - before), "lost_bytes": max(0, SLOW - size)}


def twenty_kernels(target: Target, count: int = 20) -> dict[str, float]:
    """The server's resident bytes with 20 used kernels, and its descriptors for each, client included."""
    if target.pid is None:
        raise ValueError("a bare kernel has no server")
    before = descriptors(target.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(target.kernel()).execute("1 + 1")
        return {
            "memory": memory(target.pid),
            "descriptors": (descriptors(target.pid) - before) / count,
        }
