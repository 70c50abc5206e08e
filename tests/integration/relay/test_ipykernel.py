"""The relay with the kernel that nearly everybody uses."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from gateway.wire.framing import Kind
from tests.integration.relay.conftest import NewRelay
from tests.integration.relay.harness import Relay, execute, request

IDLE, BUSY, RESTARTING, DEAD = 1, 2, 3, 4


def kernel_pid(relay: Relay) -> int:
    return int(relay.run("import os; print(os.getpid())")[0])


def is_alive(pid: int) -> bool:
    """Whether that process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


# -- start and execution ----------------------------------------------------------------------------


def test_a_cell_runs_and_its_request_is_done_when_reply_and_idle_have_come(ipython: Relay) -> None:
    msg_id, data = execute("print('hello'); input()")
    number = ipython.message(data)
    # A state that changes back at once need not be told, so the cell waits until it was.
    ipython.until(lambda: ipython.states()[-1:] == [BUSY])
    ipython.until(lambda: any(m.kind == "input_request" for m in ipython.heard))
    ipython.message(request("input_reply", {"value": ""}, "stdin")[1])
    ipython.until(lambda: number in ipython.done())
    assert ipython.is_idle(msg_id), "DONE came before what it tells of"
    assert ipython.printed(msg_id) == "hello\n"
    assert ipython.states()[-2:] == [BUSY, IDLE]


def test_requests_that_come_before_the_kernel_is_ready_are_held_and_lose_no_output(
    new_relay: NewRelay,
) -> None:
    relay = new_relay()
    ids = []
    for number in range(20):
        msg_id, data = execute(f"print({number})")
        relay.message(data)
        ids.append(msg_id)
    relay.start()
    for number, msg_id in enumerate(ids):
        relay.until(lambda msg_id=msg_id: relay.is_idle(msg_id))
        assert relay.printed(msg_id) == f"{number}\n"


def test_the_first_frame_is_hello_with_what_the_gateway_needs(ipython: Relay) -> None:
    hello = json.loads(ipython.frames[0].payload)
    assert ipython.frames[0].kind is Kind.HELLO
    assert (hello["version"], hello["received"], hello["sent"], hello["state"]) == (1, 0, 0, "starting")
    assert len(hello["stream"]) == 32
    assert hello["max_message"] == 256 << 20


def test_what_the_kernel_prints_reaches_its_clients_and_not_the_wire(ipython: Relay) -> None:
    text, _ = ipython.run("import os; os.system('echo from a child'); os.write(2, b'from fd 2\\n')")
    ipython.until(lambda: "fd 2" in ipython.logs() + text or "fd 2" in str(ipython.heard))
    assert ipython.run("print('still there')") == ("still there\n", "ok")


def test_input_asks_the_client_who_runs_the_cell(ipython: Relay) -> None:
    ipython.open(2, "two")
    msg_id, data = execute("print('got', input('name? '))")
    ipython.message(data, route=2)
    asked = ipython.until(lambda: [m for m in ipython.heard if m.kind == "input_request"])[0]
    assert (asked.channel, asked.route, asked.parent_id) == ("stdin", 2, msg_id)
    _, answer = request("input_reply", {"value": "Ada"}, "stdin")
    number = ipython.message(answer, route=2)
    ipython.until(lambda: ipython.is_idle(msg_id))
    assert "got Ada\n" in [m.content.get("text") for m in ipython.published(msg_id)]
    assert number in ipython.done(), "an input_reply wants no answer"


def test_a_comm_message_is_done_with_its_idle(ipython: Relay) -> None:
    _, data = request("comm_open", {"comm_id": "c", "target_name": "nobody", "data": {}})
    number = ipython.message(data)
    ipython.until(lambda: number in ipython.done())


def test_the_acknowledgement_of_requests_follows_soon(ipython: Relay) -> None:
    _, data = execute("import time; time.sleep(1)")
    number = ipython.message(data)
    acks = ipython.until(
        lambda: [
            f for f in ipython.frames if f.kind is Kind.ACK and int.from_bytes(f.payload, "little") == number
        ],
        seconds=0.8,
    )
    assert acks[0].route == 0


# -- interrupt --------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    """The process's children that have become another program than it is."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and "python" not in path.with_name("cmdline").read_text():
                found.add(int(path.parent.name))
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize(
    ("code", "statuses", "has_child"),
    [
        ("while True: pass", {"error"}, False),
        ("import time; time.sleep(1000)", {"error"}, False),
        ("import subprocess; subprocess.run(['sleep', '1000'])", {"error"}, True),
        # IPython takes the interrupt of a shell command for its end.
        ("get_ipython().system('sleep 1000')", {"ok", "error"}, True),
        ("input()", {"error"}, False),
    ],
    ids=["loop", "sleep", "subprocess", "shell", "input"],
)
@pytest.mark.parametrize("mode", ["signal", "message"])
def test_an_interrupt_ends_what_runs(
    new_relay: NewRelay, code: str, statuses: set[str], has_child: bool, mode: str
) -> None:
    relay = new_relay()
    assert relay.answer(relay.start(interrupt_mode=mode))["ok"]
    pid = kernel_pid(relay)
    msg_id, data = execute(f"print('begun')\n{code}")
    relay.message(data)
    relay.until(lambda: any(m.kind == "stream" for m in relay.published(msg_id)))
    if has_child:
        relay.until(lambda: children(pid))
    elif code == "input()":
        relay.until(lambda: any(m.kind == "input_request" for m in relay.heard))
    assert relay.answer(relay.control("interrupt"))["ok"]
    relay.until(lambda: relay.is_idle(msg_id), seconds=10)
    assert relay.replies(msg_id)[0].content["status"] in statuses
    assert children(pid) == set()
    assert relay.run("print('next')") == ("next\n", "ok")


def test_an_interrupt_works_where_the_relay_was_started_with_interrupts_ignored(
    folder: Path, run_dirs: Path
) -> None:
    """As by `nohup` or in the background of a script; what is ignored is inherited."""
    relay = Relay(folder, str(run_dirs / "r"), ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"])
    try:
        relay.hello()
        relay.open()
        assert relay.answer(relay.start_fake())["ok"]
        msg_id, data = execute("endless 10")
        relay.message(data)
        relay.until(lambda: len(relay.published(msg_id)) > 100)
        assert relay.answer(relay.control("interrupt"))["ok"]
        relay.until(lambda: relay.is_idle(msg_id), seconds=10)
    finally:
        relay.kill()


def test_an_interrupt_without_a_kernel_says_so(new_relay: NewRelay) -> None:
    relay = new_relay()
    answer = relay.answer(relay.control("interrupt"))
    assert (answer["ok"], answer["error"]) == (False, "There is no kernel to interrupt that is ready.")


# -- restart ----------------------------------------------------------------------------------------


def test_a_restart_ends_what_runs_kills_everything_and_keeps_the_sessions(ipython: Relay) -> None:
    pid = kernel_pid(ipython)
    ipython.run("x = 1")
    msg_id, data = execute("import subprocess; subprocess.run(['sleep', '1000'])")
    number = ipython.message(data)
    ipython.until(lambda: any(m.kind == "execute_input" for m in ipython.published(msg_id)))
    heard = len(ipython.heard)
    assert ipython.answer(ipython.control("restart"))["ok"]
    assert not is_alive(pid)
    ended = [m for m in ipython.heard[heard:] if m.parent_id == msg_id]
    assert [m.kind for m in ended] == ["stream", "execute_reply", "status"]
    assert ended[0].content == {"name": "stderr", "text": "The kernel was restarted.\n"}
    assert ended[1].content["ename"] == "KernelRestarted"
    assert ended[2].content == {"execution_state": "idle"}
    assert number in ipython.done()
    told = [m.content.get("execution_state") for m in ipython.heard]
    assert "restarting" not in told, "clients take it for a crash"
    assert ipython.states()[-2:] == [RESTARTING, IDLE]
    assert ipython.run("print(x)")[1] == "error", "the new kernel knows what the old one knew"
    assert ipython.run("print('new')") == ("new\n", "ok")
    assert kernel_pid(ipython) != pid


def test_a_restart_is_possible_many_times(ipython: Relay) -> None:
    before = None
    for number in range(4):
        assert ipython.answer(ipython.control("restart"))["ok"]
        assert ipython.run(f"print({number})") == (f"{number}\n", "ok")
        open_now = len(os.listdir(f"/proc/{ipython.process.pid}/fd"))
        before = before or open_now
    assert open_now <= before, "restarts leak descriptors"


def blocks_interrupts(pid: int) -> bool:
    """Whether the process's main thread has SIGINT in its mask of blocked signals."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) & 1 << signal.SIGINT - 1)


def test_a_kernel_that_cannot_be_interrupted_is_restarted_at_once(ipython: Relay) -> None:
    pid = kernel_pid(ipython)
    _, data = execute(
        "import ctypes, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2]); ctypes.PyDLL(None).sleep(1000)"
    )
    ipython.message(data)
    # No output tells that the cell runs: its call keeps the thread that publishes from running.
    ipython.until(lambda: blocks_interrupts(pid))
    assert ipython.answer(ipython.control("interrupt"))["ok"]
    assert ipython.answer(ipython.control("restart"))["ok"]
    assert ipython.run("print(1)") == ("1\n", "ok")


def test_restarts_that_come_while_one_is_under_way_are_all_answered(ipython: Relay) -> None:
    numbers = [ipython.control("restart") for _ in range(3)]
    assert all(ipython.answer(number)["ok"] for number in numbers)
    assert ipython.run("print(1)") == ("1\n", "ok")


# -- death ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "number"),
    [
        ("import os; os._exit(3)", "The kernel ended with exit code 3.", 3, None),
        ("import os; os.kill(os.getpid(), 9)", "The kernel was ended by SIGKILL.", None, signal.SIGKILL),
        ("import ctypes; ctypes.string_at(0)", "The kernel was ended by SIGSEGV.", None, signal.SIGSEGV),
    ],
    ids=["exit", "kill", "crash"],
)
def test_a_death_ends_the_requests_with_its_reason(
    ipython: Relay, code: str, reason: str, exit_code: int | None, number: int | None
) -> None:
    msg_id, data = execute(f"print('last words', flush=True); import time; time.sleep(0.5)\n{code}")
    first = ipython.message(data)
    waiting_id, waiting = execute("print('never')")
    second = ipython.message(waiting)
    died = ipython.until(lambda: list(ipython.all_json(Kind.DIED)))[0]
    assert died["reason"].startswith(reason)
    assert (died["exit_code"], died["signal"], died["asked"]) == (exit_code, number, None)
    for parent in (msg_id, waiting_id):
        (reply,) = ipython.replies(parent)
        assert (reply.content["status"], reply.content["ename"]) == ("error", "KernelDied")
        assert reply.content["evalue"].startswith(reason)
        assert ipython.is_idle(parent)
    assert ipython.printed(msg_id).startswith(f"last words\n{reason}")
    assert {first, second} <= ipython.done()
    assert ipython.states()[-1] == DEAD
    kinds = [f.kind for f in ipython.frames]
    assert kinds.index(Kind.DIED) > max(
        i for i, kind in enumerate(kinds) if kind in (Kind.MESSAGE, Kind.STATE)
    )


def test_a_dead_kernel_answers_what_comes_later_with_the_same_reason_and_can_be_restarted(
    ipython: Relay,
) -> None:
    ipython.message(execute("import os; os._exit(1)")[1])
    ipython.until(lambda: list(ipython.all_json(Kind.DIED)))
    msg_id, data = execute("1")
    number = ipython.message(data)
    ipython.until(lambda: ipython.is_idle(msg_id) and number in ipython.done())
    assert "exit code 1" in ipython.replies(msg_id)[0].content["evalue"]
    assert ipython.answer(ipython.control("restart"))["ok"]
    assert ipython.run("print('back')") == ("back\n", "ok")


def test_what_a_dead_kernel_has_left_behind_is_killed(ipython: Relay) -> None:
    text, _ = ipython.run("import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)")
    ipython.message(execute("import os; os._exit(1)")[1])
    ipython.until(lambda: list(ipython.all_json(Kind.DIED)))
    until_gone(int(text))


def test_a_shutdown_request_of_a_client_is_told_as_asked(ipython: Relay) -> None:
    msg_id, data = request("shutdown_request", {"restart": False}, "control")
    ipython.message(data)
    died = ipython.until(lambda: list(ipython.all_json(Kind.DIED)))[0]
    assert (died["asked"], died["exit_code"]) == ("shutdown", 0)
    assert ipython.replies(msg_id)[0].content["status"] == "ok"


def test_a_start_that_fails_says_so_with_the_kernels_last_words(new_relay: NewRelay) -> None:
    relay = new_relay()
    msg_id, data = execute("1")
    relay.message(data)
    answer = relay.answer(relay.start(["sh", "-c", "echo no such module >&2; exit 7"]))
    assert answer["error"] == "The kernel ended with exit code 7. Its last output:\nno such module"
    assert relay.states() == [DEAD]
    relay.until(lambda: relay.is_idle(msg_id))
    assert list(relay.all_json(Kind.DIED)) == []
    assert "no such module\n" in relay.logs()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"argv": ["/no/such/python"]}, "'/no/such/python' cannot be run"),
        ({"argv": ["nopython"], "env": {"PATH": "/usr/bin"}}, "'nopython' is not in the sandbox"),
        ({"cwd": "/no/such/home"}, "cannot be entered"),
        ({"argv": []}, "'argv' must be"),
        ({"env": None}, "'env' must"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["among the first frames", "later"])
def test_a_start_that_cannot_be_is_answered_with_a_sentence(
    new_relay: NewRelay, members: dict[str, object], words: str, late: bool
) -> None:
    relay = new_relay()
    if late:
        relay.message(execute("1")[1])
        relay.until(lambda: relay.frames)
    values = {"argv": ["true"], "env": {}, "cwd": "/", **members}
    answer = relay.answer(relay.control("start", **values))
    assert not answer["ok"]
    assert words in answer["error"]


def test_a_relay_starts_one_kernel_only(ipython: Relay) -> None:
    answer = ipython.answer(ipython.start())
    assert answer["error"] == "This sandbox has had its kernel; it starts no second one."
    assert ipython.run("print(1)") == ("1\n", "ok")


# -- shutdown and the end ---------------------------------------------------------------------------


def test_a_shutdown_lets_the_kernel_end_by_itself(ipython: Relay) -> None:
    pid = kernel_pid(ipython)
    ipython.run("import atexit; atexit.register(lambda: open('/proc/self/fd/2', 'w').write('bye\\n'))")
    assert ipython.answer(ipython.control("shutdown", grace=10))["ok"]
    assert not is_alive(pid)
    assert ipython.states()[-1] == DEAD
    assert list(ipython.all_json(Kind.DIED)) == [], "it was asked for"


def test_the_end_of_the_link_ends_the_relay_and_its_kernel(ipython: Relay) -> None:
    pid = kernel_pid(ipython)
    assert ipython.end() == 0
    until_gone(pid)
    assert ipython.log_path.read_text() == ""


def test_sigterm_ends_the_relay_and_its_kernel_and_is_told(ipython: Relay) -> None:
    pid = kernel_pid(ipython)
    ipython.process.send_signal(signal.SIGTERM)
    assert ipython.process.wait(5) == 128 + signal.SIGTERM
    until_gone(pid)


def test_the_relay_cannot_be_traced_or_read_by_its_kernel(ipython: Relay) -> None:
    status = Path(f"/proc/{ipython.process.pid}/environ").stat()
    other = Path(f"/proc/{kernel_pid(ipython)}/environ").stat()
    # A process that is not dumpable belongs to root in /proc (proc(5)); the mode tells where all are root.
    dumpable = ipython.run(
        "import ctypes; print(open('/proc/self/status').read().count('Uid'), ctypes.CDLL(None).prctl(3))"
    )
    assert dumpable[0] == "1 1\n", "the kernel itself is an ordinary process"
    assert (status.st_uid, other.st_uid) == (0, os.getuid())
    if os.getuid() != 0:
        with pytest.raises(PermissionError):
            Path(f"/proc/{ipython.process.pid}/mem").open("rb").close()
