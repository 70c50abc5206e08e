"""The filter as the kernel applies it: what the shipped profile denies is tried, and refused.

Each refusal must be the filter's own. The kernel refuses many of these calls by itself, with the same errno,
and a filter with a hole would go unseen. So the program that is loaded says its errno values with a mark on
them (`_marked`), which no kernel gives; a second test has them without it, as programs see them.

No attempt can do harm if the filter lets it through: every argument is -1 (no valid pointer, descriptor,
flag, signal or address) except those that a rule is about, which are chosen so that a later argument or
their combination is invalid. The process that tries has no capabilities either (attempts.py).
"""

from __future__ import annotations

import errno
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.relay.seccomp import ALLOWED, ERRNO, INSTRUCTION, UNACCOUNTED_MEMORY, build_filter
from gateway.relay.syscalls import NEWEST, NUMBERS
from tests.unit.bubblewrap.shipped_profile import Profile

MACHINE = platform.machine()
CALLS = NUMBERS[MACHINE]
ATTEMPTS = Path(__file__).with_name("attempts.py")
MARK = 0xE00  # above every errno of the kernel, and below the 4095 that a filter may give
INVALID = (-1,) * 6
SCRATCH = "/dev/shm"  # noqa: S108  (bubblewrap's own, empty and gone with it)

#: uretprobe and uprobe of x86_64, and what the kernel itself answers to them. Later kernels ask no filter
#: about the two (kernel/seccomp.c), because only the kernel's own trampolines make them.
TRAMPOLINES = {335: "SIGILL", 336: errno.ENXIO}

#: Allowed calls that end, stop or duplicate the process that makes them, whatever their arguments.
_NOT_TO_BE_MADE = {"exit", "exit_group", "rt_sigreturn", "vfork"}


def _marked(program: bytes) -> bytes:
    return b"".join(
        INSTRUCTION.pack(code, if_true, if_false, operand + MARK if operand & ~0xFFFF == ERRNO else operand)
        for code, if_true, if_false, operand in INSTRUCTION.iter_unpack(program)
    )


def _attempt(program: bytes, calls: Sequence[tuple[int, ...]], *, apart: bool = False) -> list[int | str]:
    request = json.dumps({"filter": program.hex(), "calls": calls, "apart": apart})
    done = subprocess.run(
        [sys.executable, "-I", ATTEMPTS],
        input=request,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[int | str] = json.loads(done.stdout)
    assert len(results) == len(calls)
    return results


def _denied_by_the_shipped_profile() -> dict[int, str]:
    """Every number that the profile denies whatever the arguments, also those that have no name here."""
    profile = Profile(MACHINE)
    allowed = {number for name, number in CALLS.items() if profile.may_allow(name)}
    names = {number: name for name, number in CALLS.items()}
    native = [number for number in range(NEWEST + 200) if number not in allowed]
    x32 = [2**30 + number for number in range(NEWEST + 200)] if MACHINE == "x86_64" else []
    return {number: names.get(number, hex(number)) for number in (*native, *x32)}


def test_the_machine_has_no_refusal_of_its_own_that_looks_like_the_filters() -> None:
    allow_all = INSTRUCTION.pack(0x06, 0, 0, 0x7FFF_0000)
    results = _attempt(allow_all, [(CALLS[name], *INVALID) for name in ("mount", "socket", "close", "chdir")])
    assert all(isinstance(result, int) and 0 < result < MARK for result in results)


def test_each_call_that_the_shipped_profile_denies_is_tried_and_refused_by_the_filter() -> None:
    denied = _denied_by_the_shipped_profile()
    assert set(denied.values()) >= {"bpf", "kexec_load", "perf_event_open", "userfaultfd", "init_module"}
    program = build_filter(MACHINE, deny_unaccounted_memory=False)
    for loaded, mark in ((_marked(program), MARK), (program, 0)):
        results = _attempt(loaded, [(number, *INVALID) for number in denied], apart=True)
        let_through = {
            denied[number]: result
            for number, result in zip(denied, results, strict=True)
            if result not in (errno.EPERM + mark, errno.ENOSYS + mark)
            and not (number in TRAMPOLINES and result == TRAMPOLINES[number])
        }
        assert not let_through


def test_each_argument_rule_of_the_shipped_profile_is_tried_and_refused_by_the_filter() -> None:
    profile = Profile(MACHINE)
    calls = [
        (CALLS[name], *arguments)
        for name in profile.judged_by_arguments()
        for arguments in profile.denied_arguments(name)
    ]
    assert {number for number, *_ in calls} >= {CALLS["personality"], CALLS["socket"]}
    results = _attempt(_marked(build_filter(MACHINE, deny_unaccounted_memory=False)), calls)
    refused = {code + MARK for code in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT)}
    assert not {call: result for call, result in zip(calls, results, strict=True) if result not in refused}


def test_each_further_call_that_the_policy_leaves_out_is_tried_and_refused() -> None:
    names = [name for name in CALLS if name not in ALLOWED - UNACCOUNTED_MEMORY]
    results = _attempt(
        _marked(build_filter(MACHINE, deny_unaccounted_memory=True)),
        [(CALLS[name], *INVALID) for name in names],
    )
    refused = (errno.EPERM + MARK, errno.ENOSYS + MARK)
    assert not {name: r for name, r in zip(names, results, strict=True) if r not in refused}


_CLONE_THREAD_WITHOUT_SIGHAND = 0x0001_0000  # EINVAL from the kernel, so that no process is made


#: A call, arguments that the policy judges, and the errno of its refusal.
_ARGUMENT_RULES = [
    *(
        ("clone", (1 << bit | _CLONE_THREAD_WITHOUT_SIGHAND, 0, 0, 0, 0), errno.EPERM)
        for bit in (17, 25, 26, 27, 28, 29, 30)
    ),
    ("clone3", (0, 0), errno.ENOSYS),
    # A socket type that does not exist, so that a family which is let through makes no socket either.
    *(("socket", (family, 7, 0), errno.EAFNOSUPPORT) for family in range(64) if family not in (1, 2, 10, 16)),
    *(("socket", (16, 7, protocol), errno.EAFNOSUPPORT) for protocol in range(1, 25)),
    *(("socket", (family, 3, 9999), errno.EPERM) for family in (2, 10)),
    *(("socket", (family, 1, 262), errno.EPERM) for family in (2, 10)),
    ("socketpair", (16, -1, -1, 0), errno.EAFNOSUPPORT),
    *(("ioctl", (-1, request, 0), errno.EPERM) for request in (0x5412, 0x541C, 0x541D, 0x5423)),
    *(("fcntl", (-1, command, 0), errno.EPERM) for command in (1024, 1026)),
    ("prctl", (22, -1, 0), errno.EPERM),
    *(("mknodat", (-1, 0, mode, 0), errno.EPERM) for mode in (0o020600, 0o060600, 0o140600)),
]


def test_each_argument_rule_of_the_policy_is_tried_and_refused() -> None:
    rows = [row for row in _ARGUMENT_RULES if row[0] in CALLS]
    program = _marked(build_filter(MACHINE, deny_unaccounted_memory=False))
    results = _attempt(program, [(CALLS[name], *arguments) for name, arguments, _ in rows])
    let_through = [
        (name, arguments, result)
        for (name, arguments, code), result in zip(rows, results, strict=True)
        if result != code + MARK
    ]
    assert not let_through


def test_each_call_that_the_policy_allows_reaches_the_kernel() -> None:
    """With invalid arguments where there are any, in a process of its own: it may fail, block or die."""
    judged = {"socket", "socketpair", "clone", "fcntl", "ioctl", "prctl", "mknod", "mknodat"}
    names = [name for name in CALLS if name in ALLOWED - judged - _NOT_TO_BE_MADE]
    results = _attempt(
        _marked(build_filter(MACHINE, deny_unaccounted_memory=False)),
        [(CALLS[name], *INVALID) for name in names],
        apart=True,
    )
    kept_back = {
        name: result
        for name, result in zip(names, results, strict=True)
        if result == "late" or (isinstance(result, int) and result > MARK)
    }
    assert not kept_back


_INT_80 = """
import ctypes, mmap, os, sys
code = b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3"  # mov eax, 20 (getpid of i386); int 0x80; ret
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(function() == os.getpid(), flush=True)
"""


def _run(program: bytes, argv: Sequence[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A command under bubblewrap, which loads the filter from a descriptor as it does for a sandbox."""
    reader, writer = os.pipe()
    try:
        os.write(writer, program)
        os.close(writer)
        return subprocess.run(
            [
                *("bwrap", "--unshare-user", "--unshare-net", "--unshare-ipc", "--unshare-pid"),
                *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--chdir", SCRATCH),
                *("--setenv", "HOME", SCRATCH, "--setenv", "TMPDIR", SCRATCH),
                *("--seccomp", str(reader), "--", *argv),
            ],
            pass_fds=[reader],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    finally:
        os.close(reader)


@pytest.mark.requires("x86-64")
def test_a_call_through_the_32_bit_entry_ends_the_process() -> None:
    allow_all = INSTRUCTION.pack(0x06, 0, 0, 0x7FFF_0000)
    bare = _run(allow_all, [sys.executable, "-c", _INT_80])
    filtered = _run(build_filter(MACHINE, deny_unaccounted_memory=False), [sys.executable, "-c", _INT_80])
    assert bare.stdout == "True\n"
    assert (filtered.returncode, filtered.stdout) == (128 + 31, "")  # SIGSYS, as bubblewrap reports it


_WORKLOADS = {
    "numpy": """
        import concurrent.futures, numpy
        a = numpy.random.rand(300, 300)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda _: float((a @ a).sum()), range(4)))
        assert len(set(round(p, 3) for p in parts)) == 1
    """,
    "subprocesses": """
        import subprocess
        assert subprocess.check_output("echo a | tr a b; ls / | wc -l", shell=True)[:1] == b"b"
        assert subprocess.run(["/bin/true"], close_fds=False).returncode == 0  # posix_spawn or vfork
    """,
    "fork and signals": """
        import os, signal, time
        hits = []
        signal.signal(signal.SIGINT, lambda *_: hits.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01); signal.signal(signal.SIGALRM, lambda *_: hits.append(2))
        child = os.fork()
        if child == 0:
            os.kill(os.getppid(), signal.SIGINT); os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        while sorted(hits) != [1, 2]: time.sleep(0.001)
    """,
    "multiprocessing": """
        import multiprocessing as m, multiprocessing.shared_memory as s
        for how in ("fork", "forkserver", "spawn"):
            with m.get_context(how).Pool(2) as pool:
                assert pool.map(abs, [-1, -2]) == [1, 2]
        block = s.SharedMemory(create=True, size=4096); block.buf[0] = 1; block.close(); block.unlink()
    """,
    "asyncio": """
        import asyncio
        async def main():
            reached = asyncio.Event()
            async def serve(reader, writer):
                writer.write(await reader.read(3)); await writer.drain(); writer.close(); reached.set()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
            writer.write(b"abc"); assert await reader.read(3) == b"abc"; await reached.wait(); writer.close()
            server.close()
            watcher = asyncio.PidfdChildWatcher() if hasattr(asyncio, "PidfdChildWatcher") else None
            process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
            assert (await process.communicate())[0] == b"x\\n"
        asyncio.run(main())
    """,
    "zmq over ipc and tcp": """
        import threading, zmq
        for address in ("ipc://z", "tcp://127.0.0.1:5999", "inproc://z"):
            context = zmq.Context()
            answer, ask = context.socket(zmq.REP), context.socket(zmq.REQ)
            answer.bind(address); ask.connect(address)
            thread = threading.Thread(target=lambda: answer.send(answer.recv())); thread.start()
            ask.send(b"x"); assert ask.recv() == b"x"; thread.join(); context.destroy()
    """,
    "files": """
        import fcntl, mmap, os, shutil, sqlite3, tempfile
        os.mkfifo("fifo"); os.symlink("a", "link"); os.link("fifo", "hard")
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 9999); file.flush(); fcntl.flock(file, fcntl.LOCK_EX); os.fsync(file.fileno())
            mmap.mmap(file.fileno(), 0)[0]
        shutil.copytree(os.path.dirname(shutil.__file__) + "/json", "json"); shutil.rmtree("json")
        sqlite3.connect("db").execute("create table t (a)")
        open("t", "w").close(); os.utime("t"); os.chmod("t", 0o600); os.truncate("t", 9)
    """,
    "a shell in a terminal": """
        import os, pty
        pid, fd = pty.fork()
        if pid == 0: os.execlp("sh", "sh", "-c", "test -t 0 && stty size && echo fine")
        said = b""
        try:
            while chunk := os.read(fd, 999): said += chunk
        except OSError: pass
        assert b"fine" in said and os.waitpid(pid, 0)[1] == 0
    """,
    "system": """
        import os, platform, resource, socket, time, uuid, threading, getpass
        os.sched_getaffinity(0); os.nice(1); resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.urandom(8)
        platform.uname(); uuid.uuid1(); time.sleep(0.001); os.getloadavg(); os.cpu_count()
        socket.getaddrinfo("localhost", 80); socket.socketpair(); os.eventfd(0); os.times()
        os.pidfd_open(os.getpid())
        threading.Thread(target=time.sleep, args=(0.001,)).start()
    """,
    "a Jupyter kernel": """
        import jupyter_client.manager as m
        manager, client = m.start_new_kernel(kernel_name="python3", startup_timeout=30)
        cell = "import os; assert not os.system('true'); get_ipython().system('true')"
        reply = client.execute_interactive(cell, timeout=20, output_hook=print)
        assert reply["content"]["status"] == "ok"
        client.stop_channels(); manager.shutdown_kernel(now=True)
    """,
}


@pytest.mark.parametrize("unaccounted", [False, True], ids=["counted", "uncounted"])
@pytest.mark.parametrize("workload", _WORKLOADS)
def test_what_a_python_kernel_does_works_under_the_filter(workload: str, unaccounted: bool) -> None:
    source = "\n".join(line.removeprefix(" " * 8) for line in _WORKLOADS[workload].splitlines())
    program = build_filter(MACHINE, deny_unaccounted_memory=unaccounted)
    done = _run(program, [sys.executable, "-c", source + "\nprint('done')"])
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stdout + done.stderr


_NODE = """
const { execFileSync } = require('child_process');
const { Worker } = require('worker_threads');
const net = require('net'), fs = require('fs');
fs.writeFileSync('n', 'x'); execFileSync('true');
const server = net.createServer(s => s.end('hello')).listen('s', () => {
  net.connect('s').on('data', data => {
    new Worker('require("worker_threads").parentPort.postMessage(1)', { eval: true }).on('message', () => {
      console.log(String(data)); server.close();
    });
  });
});
"""


@pytest.mark.requires("node")
def test_what_a_node_kernel_does_works_under_the_filter() -> None:
    done = _run(build_filter(MACHINE, deny_unaccounted_memory=True), ["node", "-e", _NODE])
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


_R = """
library(parallel)
stopifnot(sum(solve(diag(200))) == 200, system("true") == 0, length(mclapply(1:4, sqrt, mc.cores = 2)) == 4)
connection <- serverSocket(5998); close(connection)
writeLines("x", "r"); invisible(compiler::cmpfun(function(x) x))
cat("done")
"""


def test_what_an_r_kernel_does_works_under_the_filter() -> None:
    done = _run(build_filter(MACHINE, deny_unaccounted_memory=True), ["Rscript", "-e", _R])
    assert (done.returncode, done.stdout) == (0, "done"), done.stderr


def test_the_program_has_the_form_that_the_kernel_takes() -> None:
    program = build_filter(MACHINE, deny_unaccounted_memory=False)
    assert len(program) % struct.calcsize("HBBI") == 0
    assert len(program) // INSTRUCTION.size <= 4096  # BPF_MAXINSNS
