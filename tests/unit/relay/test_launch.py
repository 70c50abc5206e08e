"""The start command, the first frames, and the little JSON before the kernel runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.relay import boot, launch, quickjson
from gateway.relay.launch import Launch, make_run_dir
from gateway.relay.process import LaunchError, spawn
from gateway.wire import framing
from gateway.wire.framing import Kind, encode

START: dict[str, Any] = {"id": 1, "op": "start", "argv": ["/bin/true"], "env": {"A": "b"}, "cwd": "/"}


# -- arguments --------------------------------------------------------------------------------------


def test_a_plain_start_command_has_the_usual_defaults() -> None:
    plain = Launch(START, {})
    assert (plain.interrupt_mode, plain.transport, plain.sign) == ("signal", "ipc", False)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("argv", None),
        ("argv", []),
        ("argv", [""]),
        ("argv", "python"),
        ("argv", ["python", 1]),
        ("argv", ["python", "a\0b"]),
        ("argv", ["python", "\ud800"]),
        ("env", None),
        ("env", ["A=b"]),
        ("env", {"A": 1}),
        ("env", {"A=B": "c"}),
        ("env", {"": "c"}),
        ("env", {"A": "b\0c"}),
        ("cwd", None),
        ("cwd", "relative"),
        ("cwd", "/a\0b"),
        ("interrupt_mode", "shout"),
        ("interrupt_mode", None),
        ("transport", "udp"),
        ("transport", []),
        ("sign", "yes"),
    ],
)
def test_a_start_command_that_is_wrong_names_the_member(member: str, value: object) -> None:
    with pytest.raises(LaunchError, match=f"'{member}'"):
        Launch({**START, member: value}, {})


def test_the_run_directory_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run_dir(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    make_run_dir(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("path", ["relative", "/tmp/" + "x" * 100, "/proc/nothing/here"])  # noqa: S108
def test_a_run_directory_that_cannot_be_is_refused_with_the_reason(path: str) -> None:
    with pytest.raises(LaunchError, match="The run directory"):
        make_run_dir(path)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: pytest's own would not leave room for the names of sockets."""
    made = Path(tempfile.mkdtemp(prefix="r-"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("generation", [1, 99_999])
def test_a_run_directory_of_the_longest_path_has_room_for_every_socket(
    short_folder: Path, generation: int
) -> None:
    """94 bytes, as `gateway.relay.command` promises; one more is refused."""
    run_dir = f"{short_folder}/".ljust(94, "x")
    make_run_dir(run_dir)
    running = launch.run(Launch(START, {}), run_dir, generation)
    os.waitpid(running.process.pid, 0)
    os.close(running.process.output)
    connection = json.loads(Path(f"{run_dir}/kernel-{generation}.json").read_text())
    for name in launch.PORT_NAMES:
        # As ipykernel names it.
        path = f"{connection['ip']}-{connection[f'{name}_port']}"
        assert len(path) < 104
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    assert running.endpoints() == {
        name: f"ipc://{connection['ip']}-{connection[f'{name}_port']}" for name in launch.PORT_NAMES
    }
    with pytest.raises(LaunchError, match="of at most 94 bytes"):
        make_run_dir(run_dir + "x")


def test_a_sandbox_without_a_free_port_is_a_launch_error_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, made = socket.create_server, []

    def scarce(address: tuple[str, int]) -> socket.socket:
        if len(made) == 3:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        made.append(create(address))
        return made[-1]

    monkeypatch.setattr(socket, "create_server", scarce)
    with pytest.raises(LaunchError, match="no free TCP port on its loopback: Address already in use"):
        launch.run(Launch({**START, "transport": "tcp"}, {}), str(tmp_path), 1)
    assert [listener.fileno() for listener in made] == [-1, -1, -1]


# -- launching --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [
        (["/no/such/interpreter"], "/", r"'/no/such/interpreter' cannot be run: No such file"),
        (["no-such-interpreter"], "/", r"'no-such-interpreter' is not in the sandbox .*kernel\.json"),
        (["/etc/passwd"], "/", r"'/etc/passwd' cannot be run: Permission denied"),
        (["/bin/true"], "/no/such/folder", r"working directory '/no/such/folder' cannot be entered"),
    ],
)
def test_a_kernel_that_cannot_be_launched_says_why(argv: list[str], cwd: str, words: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError, match=words):
        spawn(argv, {"PATH": "/bin"}, cwd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_kernel_gets_its_own_environment_folder_session_and_nothing_else() -> None:
    leaked_reading, leaked_writing = os.pipe()
    script = (
        "import os, signal; print(sorted(os.environ.items()), os.getcwd(), os.getsid(0) == os.getpid(), "
        "sorted(map(int, os.listdir('/proc/self/fd')))[:3], os.read(0, 1), "
        f"[fd for fd in ({leaked_reading}, {leaked_writing}) if os.path.exists(f'/proc/self/fd/{{fd}}')], "
        "signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    process = spawn([sys.executable, "-I", "-S", "-c", script], {"LC_ALL": "C.UTF-8"}, "/usr")
    os.waitpid(process.pid, 0)
    os.set_blocking(process.output, True)
    said = os.read(process.output, 65536).decode()
    for descriptor in (process.output, leaked_reading, leaked_writing):
        os.close(descriptor)
    assert said == "[('LC_ALL', 'C.UTF-8')] /usr True [0, 1, 2] b'' [] True\n"


def test_a_kernel_is_told_who_its_parent_is(tmp_path: Path) -> None:
    """ipykernel looks, and ends when that process has gone."""
    command = Launch({**START, "argv": ["/bin/sh", "-c", "echo $A $JPY_PARENT_PID"]}, {})
    process = launch.run(command, str(tmp_path), 1).process
    os.waitpid(process.pid, 0)
    said = os.read(process.output, 1000)
    os.close(process.output)
    assert said.decode() == f"b {os.getpid()}\n"


_REAPING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from gateway.relay.process import reap, spawn
quick = [spawn(["/bin/true"], {}, "/") for _ in range(3)]
slow = spawn(["/bin/sleep", "60"], {}, "/")
ended = {}
while len(ended) < 3:
    more, left = reap()
    ended |= more
    assert left
assert set(ended) == {process.pid for process in quick}
slow.kill_all()
while left:
    more, left = reap()
    ended |= more
assert os.WTERMSIG(ended[slow.pid]) == 9
print("reaped")
"""


def test_reaping_takes_every_child_and_says_whether_one_is_left() -> None:
    # In a process of its own: it would take the children of whatever else these tests have started.
    root = str(Path(__file__).parents[3])
    run = subprocess.run([sys.executable, "-c", _REAPING, root], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == ("reaped\n", "")


# -- the wire ---------------------------------------------------------------------------------------


def test_stdout_is_the_wire_and_whatever_prints_goes_to_stderr() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from gateway.relay.boot import claim_wire; "
        "reading, writing = claim_wire(); print('printed', flush=True); os.system('echo from a child'); "
        "os.write(writing, b'frames ' + os.read(reading, 100) + os.read(0, 100))"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", code, str(Path(boot.__file__).parents[2])],
        input=b"from the gateway",
        capture_output=True,
        check=True,
    )
    assert said.stdout == b"frames from the gateway"
    assert said.stderr == b"printed\nfrom a child\n"


# -- the first frames -------------------------------------------------------------------------------


def test_boot_and_framing_agree() -> None:
    assert framing.HEADER.size == boot.HEADER_SIZE
    assert boot.MAX_SMALL_PAYLOAD == framing.MAX_SMALL_PAYLOAD
    assert (boot.KIND_HELLO, boot.KIND_OPEN, boot.KIND_CONTROL) == (Kind.HELLO, Kind.OPEN, Kind.CONTROL)


HELLO = encode(Kind.HELLO, payload=b'{"version": 1}')
OPEN = encode(Kind.OPEN, 1, b'{"session_id": "x"}')
CONTROL = encode(Kind.CONTROL, payload=json.dumps(START).encode())


@pytest.mark.parametrize(
    ("sent", "pending", "has_command"),
    [
        pytest.param(HELLO + CONTROL, HELLO, True, id="hello and start"),
        pytest.param(HELLO + OPEN + CONTROL + OPEN, HELLO + OPEN, True, id="a route before, one behind"),
        pytest.param(CONTROL, CONTROL, False, id="no hello"),
        pytest.param(HELLO, HELLO, False, id="the stream ends"),
        pytest.param(b"", b"", False, id="the stream is empty"),
        pytest.param(HELLO + b"\x05", HELLO + b"\x05", False, id="it ends in a header"),
        pytest.param(HELLO + CONTROL[:-3], HELLO + CONTROL[:-3], False, id="it ends in the start command"),
        pytest.param(
            HELLO + encode(Kind.CONTROL, payload=b"{"),
            HELLO + encode(Kind.CONTROL, payload=b"{"),
            False,
            id="not JSON",
        ),
        pytest.param(
            HELLO + encode(Kind.CONTROL, payload=b'{"id":1,"op":"interrupt"}'),
            HELLO + encode(Kind.CONTROL, payload=b'{"id":1,"op":"interrupt"}'),
            False,
            id="another command",
        ),
        pytest.param(
            HELLO + b"\xff\xff\xff\xff\x08\0\0\0",
            HELLO + b"\xff\xff\xff\xff\x08\0\0\0",
            False,
            id="too large",
        ),
        pytest.param(HELLO + encode(Kind.PING, payload=b"x" * 8), None, False, id="a ping"),
    ],
)
def test_the_first_frames_are_read_up_to_the_start_command(
    sent: bytes, pending: bytes | None, has_command: bool
) -> None:
    reading, writing = os.pipe()
    os.write(writing, sent)
    os.close(writing)
    found = boot.read_first(reading)
    rest = os.read(reading, 65536)
    os.close(reading)
    assert (found.command is not None) == has_command
    if has_command:
        assert found.pending == pending
        assert found.pending + CONTROL + rest == sent, "not a byte is lost or read ahead"
    else:
        assert found.pending + rest == sent
        assert pending is None or found.pending == pending


def test_before_the_kernel_runs_nothing_is_imported_that_takes_time() -> None:
    """Whatever is imported is built in or frozen, the relay's own, or json's accelerator."""
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import gateway.relay.boot; "
        "print([name for name in set(sys.modules) - before if name != '_json' "
        "and not name.startswith('gateway') "
        "and sys.modules[name].__spec__.origin not in ('built-in', 'frozen')])"
    )
    root = Path(boot.__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"


# -- the little JSON --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": [1, 2.5, None, True, 'x\u00e9\n"\\']},
        [],
        "text",
        {"argv": ["a"] * 100, "env": {"K": "\u2028"}},
    ],
)
def test_what_json_writes_is_read(value: object) -> None:
    assert quickjson.loads(json.dumps(value).encode()) == value
    assert quickjson.loads(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("data", [b"", b"{", b"{}x", b"\xff", b"nope", b"[" * 100_000, b'{"a":}', b'"\n"'])
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own error is one)
        quickjson.loads(data)


def test_a_flat_object_is_written_as_json() -> None:
    members: dict[str, str | int] = {"ip": '/run/"k"\\\n', "port": 5, "key": "\u00e9"}
    assert json.loads(quickjson.dumps(members)) == members


def test_without_the_accelerator_json_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickjson, "_accelerator", None)
    assert quickjson.loads(b'{"a": 1}') == {"a": 1}
    assert json.loads(quickjson.dumps({"a": "b"})) == {"a": "b"}
