"""The relay as what it is in a sandbox: PID 1, in a namespace of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.relay.connect import SOCKET
from gateway.wire.framing import Kind
from tests.integration.relay.harness import Relay, Server, execute

#: A PID namespace over the machine's own files; no sandbox, only what makes the relay PID 1.
BWRAP = [
    *["bwrap", "--unshare-pid", "--unshare-user-try", "--as-pid-1", "--die-with-parent"],
    *["--dev-bind", "/", "/", "--proc", "/proc"],
]


@pytest.fixture
def relay(folder: Path, run_dirs: Path) -> Iterator[Relay]:
    relay = Relay(folder, str(run_dirs / "r"), BWRAP)
    relay.hello()
    relay.open()
    assert relay.answer(relay.start())["ok"]
    assert relay.run("import os; print(os.getppid())") == ("1\n", "ok")
    yield relay
    relay.kill()


@pytest.fixture
def visitor(folder: Path, run_dirs: Path) -> Iterator[Relay]:
    """A link that comes from outside of the namespace, as one by exec does, to a relay that outlives it."""
    server = Server(folder, str(run_dirs / "s"), BWRAP)
    try:
        deadline = time.monotonic() + 10
        while not (run_dirs / "s" / SOCKET).exists():
            assert time.monotonic() < deadline, "the relay does not listen"
            time.sleep(0.01)
        (first,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        enter = ["nsenter", "--preserve-credentials", "--user", "--mount", "--pid", f"--target={first}"]
        link, _ = server.link(enter)
        link.open()
        assert link.answer(link.start())["ok"]
        yield link
    finally:
        server.kill()


PROCESSES = (
    "print(' '.join(sorted(open(f'/proc/{p}/stat').read().split()[2] + ':' + p "
    "for p in os.listdir('/proc') if p.isdigit())))"
)


def processes(relay: Relay) -> list[str]:
    """`state:pid` of every process in the sandbox, as the kernel sees them."""
    return relay.run(f"import os\n{PROCESSES}")[0].split()


def outside(marker: str) -> list[str]:
    """Processes of this machine whose command line has `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_text():
                found.append(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def until_none(marker: str) -> None:
    deadline = time.monotonic() + 5
    while outside(marker):
        assert time.monotonic() < deadline, f"{outside(marker)} are still there"
        time.sleep(0.02)


#: Leaves a process behind that has a session of its own, and whose parent is gone.
DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{seconds}"])
    os._exit(0)
os.wait()
"""


def with_a_daemon(relay: Relay, marker: str) -> None:
    """Have a cell leave a process behind."""
    relay.run(DAEMON.format(seconds=marker))
    relay.until(lambda: outside(marker))


def test_every_orphan_is_reaped(relay: Relay) -> None:
    relay.run("\n".join([DAEMON.format(seconds="0.01")] * 20), seconds=60)
    deadline = time.monotonic() + 10
    while len(now := processes(relay)) > 2:
        assert time.monotonic() < deadline, f"left: {now}"
    assert not [process for process in now if process.startswith("Z")]


def test_a_restart_kills_what_has_left_the_kernels_session(relay: Relay) -> None:
    marker = f"{100_000 + os.getpid()}.5"
    with_a_daemon(relay, marker)
    assert relay.answer(relay.control("restart"))["ok"]
    until_none(marker)
    assert len(processes(relay)) == 2


#: Formatted with what marks its processes.
BOMB = """
import os, subprocess, time
for _ in range(4):
    if os.fork() == 0:
        while True:
            subprocess.Popen(["sleep", "{marker}"])
            time.sleep(0.02)
time.sleep(1000)
"""


def restart_over_a_bomb(relay: Relay, marker: str) -> None:
    """Have a cell fork without end, and restart its kernel; nothing of it is left."""
    relay.message(execute(BOMB.format(marker=marker))[1])
    relay.until(lambda: len(outside(marker)) > 20)
    assert relay.answer(relay.control("restart"))["ok"]
    until_none(marker)


def test_a_fork_bomb_does_not_survive_a_restart(relay: Relay) -> None:
    marker = f"{200_000 + os.getpid()}.5"
    restart_over_a_bomb(relay, marker)
    assert len(processes(relay)) == 2


def test_a_death_leaves_nothing_behind(relay: Relay) -> None:
    marker = f"{300_000 + os.getpid()}.5"
    with_a_daemon(relay, marker)
    relay.message(execute("import os; os._exit(1)")[1])
    until_none(marker)


def test_a_death_leaves_the_link_that_came_from_outside_and_nothing_else(visitor: Relay) -> None:
    marker = f"{500_000 + os.getpid()}.5"
    with_a_daemon(visitor, marker)
    msg_id, dying = execute("import os; os._exit(1)")
    visitor.message(dying)
    visitor.until(lambda: list(visitor.all_json(Kind.DIED)))
    assert visitor.is_idle(msg_id)
    until_none(marker)
    assert visitor.answer(visitor.control("restart"))["ok"]
    # The relay, its kernel, and who has brought the link.
    assert len(processes(visitor)) == 3


def test_a_restart_that_ends_a_fork_bomb_leaves_the_link_that_came_from_outside(visitor: Relay) -> None:
    marker = f"{600_000 + os.getpid()}.5"
    restart_over_a_bomb(visitor, marker)
    assert len(processes(visitor)) == 3


def test_the_end_of_the_link_ends_everything(relay: Relay) -> None:
    marker = f"{400_000 + os.getpid()}.5"
    with_a_daemon(relay, marker)
    assert relay.end() == 0
    until_none(marker)


def test_the_kernel_cannot_look_into_the_relay(folder: Path, run_dirs: Path) -> None:
    """Both have the same user and no capabilities, so only that the relay is not dumpable protects it."""
    code = """
import os
for path, look in (
    ("/proc/1/fd/0", os.readlink),
    ("/proc/1/mem", lambda path: open(path, "rb")),
    ("/proc/1/environ", lambda path: open(path, "rb").read(1)),
    ("/proc/1/exe", os.readlink),
    ("/proc/self/exe", os.readlink),
):
    try:
        look(path)
        print(path, "open")
    except OSError as error:
        print(path, error.strerror)
print(open("/proc/self/status").read())
"""
    relay = Relay(folder, str(run_dirs / "r"), [*BWRAP, "--cap-drop", "ALL"])
    try:
        relay.hello()
        relay.open()
        assert relay.answer(relay.start())["ok"]
        text, _ = relay.run(code)
    finally:
        relay.kill()
    for name in ("fd/0", "mem", "environ", "exe"):
        assert f"/proc/1/{name} Permission denied" in text
    assert "/proc/self/exe open" in text
    assert "CapEff:\t0000000000000000" in text


@pytest.mark.parametrize(
    ("name", "limit_name"),
    [
        ("memory.events", "memory.max"),
        ("memory/memory.oom_control", "memory/memory.limit_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_a_kernel_that_was_killed_for_want_of_memory_is_told_as_that(
    folder: Path, run_dirs: Path, name: str, limit_name: str
) -> None:
    """The counter is the test's own file, in the place where a backend shows the cgroup's."""
    counter, limit = run_dirs / "counter", run_dirs / "limit"
    counter.write_text("under_oom 0\noom_kill 7\n")
    limit.write_text(f"{256 << 20}\n")
    shown = ["--tmpfs", "/sys/fs/cgroup"]
    for source, place in ((counter, name), (limit, limit_name)):
        shown += ["--ro-bind", str(source), f"/sys/fs/cgroup/{place}"]
    relay = Relay(folder, str(run_dirs / "r"), [*BWRAP, *shown])
    try:
        relay.hello()
        relay.open()
        assert relay.answer(relay.start_fake())["ok"]
        kill_id, kill = execute("die -9")
        relay.message(kill)
        relay.until(lambda: list(relay.all_json(Kind.DIED)))
        assert relay.answer(relay.control("restart"))["ok"]
        counter.write_text("under_oom 0\noom_kill 8\n")
        memory_id, memory = execute("die -9")
        relay.message(memory)
        relay.until(lambda: len(list(relay.all_json(Kind.DIED))) == 2)
        killed, starved = (died["reason"] for died in relay.all_json(Kind.DIED))
        assert killed == "The kernel was ended by SIGKILL."
        assert (
            starved == "The kernel used more memory than it may have (its limit is 256 MiB) and was killed."
        )
        relay.until(lambda: relay.is_idle(kill_id) and relay.is_idle(memory_id))
        assert relay.replies(memory_id)[0].content["evalue"] == starved
    finally:
        relay.kill()
