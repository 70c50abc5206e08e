"""The kernel's process: launching, signals, and what its end means.

The kernel leads a session, and so a process group, of its own; signals go to the group, so that what a
cell runs (`subprocess`, `!command`) hears them too. The relay is usually PID 1 of its sandbox. Then
every orphan becomes its child and is reaped here, and `kill_all` ends whatever there is in the
sandbox. Outside a sandbox it only ever touches the kernel's group.

What was brought in from outside (`relay connect`, by exec) is in the sandbox's PID namespace too, and holds
the link's stream. Its parent is not seen from here, and is told as 0 (pid_namespaces(7)); that of what comes
of the kernel never is: an orphan's parent is the relay.
"""

import os

# The module behind `signal`, without the enumerations that importing that one would bring.
from _signal import (  # type: ignore[import-not-found]  # typeshed describes only `signal`
    SIGCONT,
    SIGINT,
    SIGKILL,
    SIGSTOP,
    SIGTERM,
    valid_signals,
)

#: The kernel starts with every signal as the system means it. Ignored ones would stay ignored: Python
#: ignores SIGPIPE for itself, and a relay that was started in the background may ignore SIGINT.
_SIGNALS = tuple(valid_signals() - {SIGKILL, SIGSTOP})


class LaunchError(Exception):
    """The kernel could not be launched; the message is a sentence for the user."""


class KernelProcess:
    """A process that was launched; `status` is its wait status once it has been reaped."""

    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        #: The reading end of the pipe that is its stdout and stderr.
        self.output = output
        self.status: int | None = None
        self._stopped = False

    def stop(self) -> None:
        """Suspend the kernel's process group."""
        if not self._stopped:
            self._stopped = True
            self._signal(SIGSTOP)

    def go_on(self) -> None:
        """Let a suspended group go on."""
        if self._stopped:
            self._stopped = False
            self._signal(SIGCONT)

    def interrupt(self) -> None:
        """SIGINT to the group. One that is suspended finds it when it goes on."""
        self._signal(SIGINT)

    def terminate(self) -> None:
        """SIGTERM to the group, which must not be suspended to hear it."""
        self._signal(SIGTERM)
        self.go_on()

    def kill_all(self, *, streams_too: bool = False) -> None:
        """SIGKILL to every process of the sandbox but the relay; outside one, to the kernel's group.

        What holds streams is spared, unless asked for. Then one call ends all others; else a process that is
        being forked meanwhile may need another call.
        """
        if os.getpid() != 1:
            self._signal(SIGKILL)
            return
        parents = {} if streams_too else _parents()
        is_visited = 0 in parents.values()
        for pid in [pid for pid, parent in parents.items() if parent != 0] if is_visited else [-1]:
            try:  # noqa: SIM105 (contextlib is one more import before the kernel runs)
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                pass  # there is none

    def _signal(self, number: int) -> None:
        # The group may outlive its leader (a child that went on), so the leader's end does not matter.
        try:  # noqa: SIM105
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left, or nobody of our own user


def spawn(argv: list[str], env: dict[str, str], cwd: str) -> KernelProcess:
    """Launch `argv` in `cwd` with exactly `env`; raises `LaunchError`.

    posix_spawn, because it needs no module, costs no copy of the relay's pages, and tells why an
    exec failed.
    """
    program = _find(argv[0], env.get("PATH", os.defpath))
    try:
        os.chdir(cwd)
    except OSError as error:
        raise LaunchError(
            f"The kernel's working directory {cwd!r} cannot be entered: {error.strerror}."
        ) from None
    reading, writing = os.pipe()
    try:
        pid = os.posix_spawn(
            program,
            argv,
            env,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writing, 1),
                (os.POSIX_SPAWN_DUP2, writing, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
    except OSError as error:
        os.close(reading)
        raise LaunchError(f"The kernel's program {argv[0]!r} cannot be run: {error.strerror}.") from None
    finally:
        os.close(writing)
        os.chdir("/")
    os.set_blocking(reading, False)
    return KernelProcess(pid, reading)


def _find(program: str, path: str) -> str:
    """Where `program` is, by the kernel's own PATH; raises `LaunchError`."""
    if "/" in program:
        return program
    for folder in path.split(":"):
        candidate = f"{folder}/{program}"
        if folder and os.access(candidate, os.X_OK):
            return candidate
    raise LaunchError(
        f"The kernel's program {program!r} is not in the sandbox (PATH is {path!r}). "
        "Correct argv in its kernel.json, or make the program visible in the sandbox."
    )


def _parents() -> dict[int, int]:
    """The parent of every process of the sandbox but the relay."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and name != "1":
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The program's name, in parentheses, may have some of its own.
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                pass  # it has ended
    return found


def reap() -> tuple[dict[int, int], bool]:
    """Collect every child that has ended: wait status by pid, and whether any child is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status
