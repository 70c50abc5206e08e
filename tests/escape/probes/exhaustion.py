"""Resource exhaustion: each attempt takes more than the sandbox's limit, and succeeds by having it.

`facts["limits"]` are the sandbox's, in bytes and counts; in the control they are the same numbers, and
nothing holds them. What an attempt takes is a little more than the limit, never all there is.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import os
import pathlib
import resource
import select
import signal
import socket
import threading
import time
from typing import NoReturn

from .calls import check, libc, raw
from .table import Facts, InconclusiveError, RefusedError, preparing, probe

_IPC_RMID = 0
_MIB = 1 << 20
_MORE = 64 * _MIB


def _be_the_first_to_go() -> None:
    """So that the end of memory ends the attempt, and not the kernel that it runs in."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _hear(ready: int, children: list[int], patience: float = 10) -> bytes:
    """What one of the children says; refused once any has ended."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if select.select([ready], [], [], 0.02)[0]:
            return os.read(ready, 12)
        if any(os.waitpid(child, os.WNOHANG)[0] for child in children):
            raise RefusedError("one of the processes was ended")
    raise InconclusiveError("the processes neither went on nor ended")


class _Alive:
    """Processes that keep what they took, each until it is asked whether it is still there."""

    def __init__(self) -> None:
        self._asked, self._ask = os.pipe()
        self._answered, self._answer = os.pipe()

    def stay(self) -> NoReturn:
        """What such a process does. One that memory has ended may be seen to have done so much later, but
        does nothing any more."""
        os.read(self._asked, 1)
        os.write(self._answer, b"x")
        while True:
            signal.pause()

    def want_all(self, children: list[int]) -> None:
        """Refused unless every one of them answers."""
        os.write(self._ask, b"x" * len(children))
        heard = 0
        while heard < len(children):
            heard += len(_hear(self._answered, children))


def _touch(memory: mmap.mmap, size: int) -> None:
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1


def _fill(path: str, size: int, chunk: int) -> int:
    """Bytes that could be written; in files of `chunk` bytes, so that no single one is too large."""
    written, block = 0, bytes(_MIB)
    for number in range(size // chunk + 1):
        with open(f"{path}-{number}", "wb", buffering=0) as file:
            while file.tell() < chunk and written < size:
                written += file.write(block[: min(len(block), chunk - file.tell())])
    return written


def _fill_and_remove(folder: str, size: int, facts: Facts, *, lasting: float = 0) -> str:
    name = f"fill-{os.getpid()}"
    try:
        written = _fill(os.path.join(folder, name), size, facts["limits"]["file_size"])
        time.sleep(lasting)
    finally:
        for path in pathlib.Path(folder).glob(f"{name}-*"):
            path.unlink()
    return f"wrote {written >> 20} MiB"


@probe("exhaustion", "memory of a process has a limit", ends_by=("SIGKILL",), patience=20)
def take_memory(facts: Facts) -> str:
    _be_the_first_to_go()
    size = facts["limits"]["memory"] + _MORE
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _touch(memory, size)
    except MemoryError as error:
        raise RefusedError("no memory") from error
    return f"has {size >> 20} MiB"


@probe(
    "exhaustion", "memory that processes share has a limit", ends_by=("SIGKILL",), patience=20, limit="memory"
)
def take_shared_memory(facts: Facts) -> str:
    _be_the_first_to_go()
    size = facts["limits"]["memory"] + _MORE
    memory = mmap.mmap(-1, size)
    _touch(memory, size)
    return f"has {size >> 20} MiB"


@probe(
    "exhaustion",
    "memory of all processes together has a limit",
    ends_by=("SIGKILL",),
    patience=20,
    limit="memory",
)
def take_memory_with_many_processes(facts: Facts) -> str:
    """Four, each with less than the limit; all of them have to be alive in the end."""
    _be_the_first_to_go()
    share = (facts["limits"]["memory"] + _MORE) // 4
    ready, tell = os.pipe()
    alive, children = _Alive(), []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            memory = mmap.mmap(-1, share, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            _touch(memory, share)
            os.write(tell, b"x")
            alive.stay()
        children.append(child)
    heard = 0
    while heard < len(children):
        heard += len(_hear(ready, children))
    alive.want_all(children)
    return f"four have {share >> 20} MiB each"


@probe("exhaustion", "memory in files without a name counts", ends_by=("SIGKILL",), patience=20)
def take_memory_in_memory_files(facts: Facts) -> str:
    _be_the_first_to_go()
    size, chunk = facts["limits"]["memory"] + _MORE, 8 * _MIB
    kept = []
    for _ in range(size // chunk):
        descriptor = os.memfd_create("escape")
        os.truncate(descriptor, chunk)
        kept.append(mmap.mmap(descriptor, chunk))
        _touch(kept[-1], chunk)
    return f"has {size >> 20} MiB"


@probe("exhaustion", "memory in System V segments counts", ends_by=("SIGKILL",), patience=20)
def take_memory_in_shared_segments(facts: Facts) -> str:
    _be_the_first_to_go()
    size, chunk = facts["limits"]["memory"] + _MORE, 8 * _MIB
    libc.shmat.restype = ctypes.c_void_p
    for _ in range(size // chunk):
        segment = raw(facts, "shmget", 0, chunk, 0o1600)
        address = libc.shmat(segment, None, 0)
        raw(facts, "shmctl", segment, _IPC_RMID, None)  # it goes with this process
        ctypes.memset(address, 1, chunk)
    return f"has {size >> 20} MiB"


@probe(
    "exhaustion", "memory in the buffers of sockets counts", ends_by=("SIGKILL",), patience=20, limit="memory"
)
def take_memory_in_sockets(facts: Facts) -> str:
    """In processes of 100 pairs each, because a process has few descriptors."""
    _be_the_first_to_go()
    size = facts["limits"]["memory"] + _MORE
    ready, tell = os.pipe()
    taken, alive, children = 0, _Alive(), []
    while taken < size:
        child = os.fork()
        if child == 0:
            os.write(tell, b"%12d" % _fill_sockets(100))
            alive.stay()
        children.append(child)
        taken += int(_hear(ready, children))
    alive.want_all(children)
    return f"{taken >> 20} MiB lie in sockets"


def _fill_sockets(pairs: int) -> int:
    """Bytes that lie in the buffers of so many pairs, which stay open."""
    taken, block = 0, bytes(65536)
    for _ in range(pairs):
        for end in socket.socketpair():
            end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += end.send(block)
            end.detach()
    return taken


@probe("exhaustion", "processes have a limit", patience=20)
def make_processes(facts: Facts) -> str:
    _be_the_first_to_go()
    wanted = facts["limits"]["processes"] + 16
    for _ in range(wanted):
        if os.fork() == 0:
            while True:
                signal.pause()
    return f"made {wanted}"


@probe("exhaustion", "threads count as processes", patience=20)
def make_threads(facts: Facts) -> str:
    wanted = facts["limits"]["processes"] + 16
    threading.stack_size(64 * 1024)
    gate = threading.Event()
    try:
        for _ in range(wanted):
            threading.Thread(target=gate.wait, daemon=True).start()
    except RuntimeError as error:
        raise RefusedError(str(error)) from error
    return f"made {wanted}"


@probe("exhaustion", "a file has a largest size", ends_by=("SIGXFSZ",), patience=10)
def make_a_large_file(facts: Facts) -> str:
    name, size = f"large-{os.getpid()}", facts["limits"]["file_size"] + 1
    try:
        with open(name, "wb") as file:
            file.truncate(size)
    finally:
        os.unlink(name)
    return f"made one of {size} bytes"


@probe("exhaustion", "/tmp has a largest size", patience=20, lasts=True)  # noqa: S108
def fill_the_temporary_folder(facts: Facts) -> str:
    size, lasting = facts["limits"]["tmp_size"] + _MIB, facts.get("noticed_within", 0)
    return _fill_and_remove("/tmp", size, facts, lasting=lasting)  # noqa: S108


@probe("exhaustion", "the home has a largest size", patience=20, lasts=True)
def fill_the_home(facts: Facts) -> str:
    size, lasting = facts["limits"]["home_size"] + _MIB, facts.get("noticed_within", 0)
    return _fill_and_remove(os.path.expanduser("~"), size, facts, lasting=lasting)


@probe("exhaustion", "/dev/shm has a largest size", patience=20)  # noqa: S108
def fill_the_shared_memory_folder(facts: Facts) -> str:
    return _fill_and_remove("/dev/shm", facts["limits"]["shm_size"] + _MIB, facts)  # noqa: S108


@probe("exhaustion", "descriptors of a process have a limit")
def open_descriptors(facts: Facts) -> str:
    wanted = facts["limits"]["open_files"] + 16
    for _ in range(wanted):
        os.dup(0)
    return f"opened {wanted}"


@probe("exhaustion", "nor can that limit be gone around by descriptors in flight", patience=10)
def send_descriptors_on_their_way(facts: Facts) -> str:
    """Descriptors that wait in a socket are no process's; the kernel counts them with the account's."""
    wanted, sent, kept = facts["limits"]["open_files"] + 253, 0, []
    while sent < wanted:
        one, other = socket.socketpair()
        kept.append((one, other))
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 253))])
        sent += 253
    return f"{sent} are on their way"


@probe("exhaustion", "the share of the processors has a limit", patience=10, limit="cpus")
def use_the_processors(facts: Facts) -> str:
    """Two busy processes for a second; more than the share and a fifth of it is too much."""
    ends = time.monotonic() + 1.5
    for _ in range(2):
        if os.fork() == 0:
            while time.monotonic() < ends:
                pass
            os._exit(0)
    for _ in range(2):
        os.wait()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (usage.ru_utime + usage.ru_stime) / 1.5
    if used > facts["limits"]["cpus"] * 1.25:
        return f"used {used:.2f} processors"
    raise RefusedError(f"got {used:.2f} processors")


@probe("exhaustion", "memory cannot be locked")
def lock_memory(facts: Facts) -> str:
    with preparing("memory"):
        memory = mmap.mmap(-1, 64 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    check(
        libc.mlock(
            ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), ctypes.c_size_t(65536)
        )
    )
    return "locked 64 KiB"


@probe("exhaustion", "a crash leaves no core file, and wakes no handler on the host", patience=10)
def leave_a_core_file(facts: Facts) -> str:
    with open("/proc/sys/kernel/core_pattern") as file:
        handler = file.read().startswith("|")
    if handler:
        # The host's handler is started however low the limit is, except at 1 (fs/coredump.c): so no crash.
        if resource.getrlimit(resource.RLIMIT_CORE)[1] == 1:
            raise RefusedError("the limit keeps the kernel from starting the handler")
        return "the host's handler would be started"
    child = os.fork()
    if child == 0:
        os.abort()
    _, status = os.waitpid(child, 0)
    if not os.WCOREDUMP(status):
        raise RefusedError("no core was written")
    return "a core was written"


@probe("exhaustion", "message queues, which outlive processes, cannot be filled")
def fill_message_queues(facts: Facts) -> str:
    queue = check(libc.mq_open(f"/fill-{os.getpid()}".encode(), os.O_RDWR | os.O_CREAT, 0o600, None))
    with contextlib.suppress(OSError):
        check(libc.mq_unlink(f"/fill-{os.getpid()}".encode()))
    return f"made {queue}"


@probe("exhaustion", "watches on files, which an account has few of, cannot be used up")
def use_up_file_watches(facts: Facts) -> str:
    for _ in range(8):
        check(libc.inotify_init())
    return "made eight"


@probe("exhaustion", "signals and timers in waiting, which an account has few of, have a limit", patience=10)
def use_up_waiting_signals(facts: Facts) -> str:
    """POSIX timers count with them (RLIMIT_SIGPENDING); a sandbox needs a few."""
    timer = ctypes.c_void_p()
    for _ in range(4000):
        check(libc.timer_create(1, None, ctypes.byref(timer)))
    return "made 4000 timers"
