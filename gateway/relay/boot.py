"""The relay's first milliseconds: take the wire, read the first frames, launch the kernel.

Everything here is on the way of every kernel's start, so nothing is imported that Python has not loaded
already: the two frames that matter, HELLO and CONTROL start, are taken apart by hand instead of by
`gateway.wire.framing`, whose imports cost some 20 ms, a tenth of a kernel's start. Reading stops at
the end of the start command, or at the first frame for which there is no reason to hurry; what was
read and not used is handed on to `relay` as it came.
"""

import os
import sys
import time

from . import launch as launching
from .process import LaunchError
from .quickjson import loads

# gateway.wire.framing has these too; a test compares them.
HEADER_SIZE = 8
MAX_SMALL_PAYLOAD = 256 * 1024
KIND_HELLO, KIND_OPEN, KIND_CONTROL = 1, 3, 8
#: Frames that may come before the start command: HELLO, and the routes of clients that wait already.
_KINDS_BEFORE_START = (KIND_HELLO, KIND_OPEN)
_MAX_FRAMES_BEFORE_START = 64
_STDERR = 2
#: Seconds that the start command may take to arrive. It was sent while the interpreter started, if at all.
PATIENCE = 0.02
USAGE = """usage: relay pipe RUN_DIR           serve the link on stdin and stdout, and end with it
       relay serve RUN_DIR SECONDS BYTES
                                    serve links that come by `connect`; end after SECONDS without one,
                                    and let no file become larger than BYTES
       relay connect RUN_DIR        be such a link, on stdin and stdout
       relay install FOLDER         copy the relay into this folder
       relay canary PORT            say on this port that a canary is here
       relay probe ADDRESS[,ADDRESS] PORT [SECONDS]
                                    whether it is heard at each address"""
_LOOK = 0.001


class Boot:
    """What the first milliseconds brought.

    `pending` are the bytes that the link's decoder is to read first. `command` is the start command if
    it was among them (then it is not in `pending`), `launch` and `running` what became of it, or
    `error` why it failed.
    """

    def __init__(self) -> None:
        self.pending = b""
        self.command: dict[str, object] | None = None
        self.launch: launching.Launch | None = None
        self.running: launching.Running | None = None
        self.error = ""


def claim_wire() -> tuple[int, int]:
    """Move the link off the standard descriptors: (reading, writing).

    From here on whatever prints goes to stderr, and reading stdin finds nothing. Descriptors that came
    with the process and are none of its business are closed, so that the kernel cannot inherit them.
    """
    # By name: the limit that a range would go up to may be a thousand million.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > _STDERR:
            try:  # noqa: SIM105 (contextlib is one more import before the kernel runs)
                os.close(int(name))
            except OSError:
                pass  # the listing's own
    reading, writing = os.dup(0), os.dup(1)
    os.dup2(_STDERR, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return reading, writing


def read_first(reading: int) -> Boot:
    """Read up to the start command, or up to a frame that is not worth the hurry.

    Waits no longer than `PATIENCE`: a gateway may have other things to say first, or nothing yet. Leaves
    `reading` nonblocking.
    """
    os.set_blocking(reading, False)
    deadline = time.monotonic() + PATIENCE
    boot = Boot()
    for _ in range(_MAX_FRAMES_BEFORE_START):
        header = _read_exactly(reading, HEADER_SIZE, deadline)
        length = int.from_bytes(header[:4], "little")
        kind = header[4] if len(header) == HEADER_SIZE else 0
        if kind not in (*_KINDS_BEFORE_START, KIND_CONTROL) or length > MAX_SMALL_PAYLOAD:
            boot.pending += header
            break
        payload = _read_exactly(reading, length, deadline)
        if kind == KIND_CONTROL and boot.pending and len(payload) == length:
            boot.command = _start_command(payload)
        if boot.command is not None:
            break
        boot.pending += header + payload
        if kind == KIND_CONTROL or len(payload) < length:
            break
    return boot


def _start_command(payload: bytes) -> dict[str, object] | None:
    try:
        value = loads(payload)
    except ValueError:
        return None  # the link says what is wrong with it
    if isinstance(value, dict) and value.get("op") == "start" and isinstance(value.get("id"), int):
        return value
    return None


def _read_exactly(descriptor: int, size: int, deadline: float) -> bytes:
    """`size` bytes, or fewer where the stream ends or the rest is not there in time."""
    data = b""
    while len(data) < size:
        try:
            chunk = os.read(descriptor, size - len(data))
        except BlockingIOError:
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK)
            continue
        if not chunk:
            break
        data += chunk
    return data


def main(arguments: list[str]) -> None:
    """Do what the command line asks: see the package's docstring."""
    match arguments:
        case ["pipe", run_dir]:
            pipe(run_dir)
        case ["serve", run_dir, patience, file_size] if patience.isdecimal() and file_size.isdecimal():
            serve(run_dir, int(patience), int(file_size))
        case ["connect", run_dir]:
            from .connect import connect

            connect(run_dir)
        case ["install", folder]:
            from .install import install

            install(folder)
        case ["canary", port] if port.isdecimal():
            from .canary import canary

            canary(int(port))
        case ["probe", addresses, *numbers] if len(numbers) in (1, 2) and all(map(str.isdecimal, numbers)):
            from .probe import probe

            probe(addresses.split(","), *map(int, numbers))
        case _:
            sys.exit(USAGE)


def serve(run_dir: str, patience: int, file_size: int) -> None:
    """Be the relay of a sandbox that outlives its gateway: links come by `connect`, one after the other."""
    from .confine import NotConfinedError, confine

    try:
        confine(file_size)
        launching.make_run_dir(run_dir)
    except (NotConfinedError, LaunchError) as error:
        sys.exit(f"relay: {error}")
    from .relay import run_server

    run_server(run_dir, patience)


def pipe(run_dir: str) -> None:
    """Be the relay of the link on stdin and stdout, and end with it."""
    reading, writing = claim_wire()
    try:
        launching.make_run_dir(run_dir)
    except LaunchError as error:
        sys.exit(f"relay: {error}")
    boot = read_first(reading)
    if boot.command is not None:
        try:
            boot.launch = launching.Launch(boot.command, {})
            boot.running = launching.run(boot.launch, run_dir, 1)
        except LaunchError as error:
            boot.error = str(error)
    # Only now, with the kernel on its way: zmq, and everything that needs it.
    from .relay import run_pipe

    run_pipe(reading, writing, run_dir, boot)
