"""What lies outside a sandbox for probes to reach: files, listeners, processes, a key, shared memory.

It is harmless and runs on the host for the sandbox, and inside the control environment for the control.
Everything is open to everyone (0666, 0777, all permissions on the key), so that nothing but isolation keeps
a probe from it. `Witness.facts` tells where everything is; `Witness.report` tells what was touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import pty
import secrets
import selectors
import shutil
import signal
import socket
from typing import Any

from .calls import check, libc, raw

#: Files of `host_dir`; most are for the one probe that spoils the file of that name.
FILES = (
    *("read", "traverse", "handle", "overwrite", "truncate", "rename", "unlink", "link", "chmod", "map"),
    *("uring_read", "uring_write", "uring_rename", "uring_unlink", "shown"),
)
#: Processes that wait to be reached; most are for the one probe that ends the process of that name.
VICTIMS = (
    *("kill", "tgkill", "queue", "pidfd", "trace", "read", "write", "owner", "group", "see"),
    *("relay", "relay_kill", "relay_stop", "relay_pidfd", "relay_trace", "relay_segv", "relay_write"),
)

#: The port on a machine without IPv6; nothing answers there.
NO_IPV6 = 9

_PR_SET_PDEATHSIG, _PR_SET_PTRACER = 1, 0x5961_6D61
_IPC_PRIVATE, _IPC_CREAT, _IPC_RMID = 0, 0o1000, 0
_PROCESS_KEYRING, _KEYCTL_SETPERM, _ALL_PERMISSIONS = -2, 5, 0x3F3F_3F3F


class Witness:
    """Lays everything out below `host_dir`, which is made. `calls` are system call numbers by name.

    Beside it is a folder that the sandbox is shown, read-only, with sockets and a pipe in it.
    """

    def __init__(self, host_dir: str, calls: dict[str, int]) -> None:
        self.token = secrets.token_hex(16)
        self.dir = pathlib.Path(host_dir)
        self.shown = pathlib.Path(f"{host_dir}-shown")
        self._calls = {"calls": calls}
        self._memory = ctypes.create_string_buffer(self.token.encode())
        self._selector = selectors.DefaultSelector()
        self._touched: list[str] = []
        os.umask(0)
        self.dir.mkdir(mode=0o777)
        self.shown.mkdir(mode=0o777)
        for name in FILES:
            self.dir.joinpath(name).write_text(self.token)
        for path in (self.dir / "fifo", self.shown / "pipe"):
            os.mkfifo(path)
            # For writing too, or the first writer's end would be everyone's.
            self._listen_to(os.open(path, os.O_RDWR | os.O_NONBLOCK), path.name)
        self.facts: dict[str, Any] = {
            "token": self.token,
            "host_dir": host_dir,
            "shown_dir": str(self.shown),
            "witness_pid": os.getpid(),
            "memory_address": ctypes.addressof(self._memory),
            "victims": {name: self._victim() for name in VICTIMS},
            **self._sockets(),
            **self._shared(),
            "key": self._key(),
            "terminal": self._terminal(),
        }
        self._before = self._files()

    def serve(self, until: int) -> None:
        """Answer whoever comes until the descriptor `until` has something to read."""
        self._selector.register(until, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._selector.unregister(until)
                    return
                self._answer(key.fileobj, key.data)

    def report(self) -> dict[str, Any]:
        """What was touched since the last report: every list is empty where nobody got out."""
        after = self._files()
        before, self._before = self._before, after
        touched, self._touched = self._touched, []
        return {
            "reached": touched,
            "files changed": sorted(name for name in before | after if before.get(name) != after.get(name)),
            "processes harmed": sorted(
                name for name, pid in self.facts["victims"].items() if _state(pid) != "S (sleeping)"
            ),
            "shared memory changed": [] if self._shm.value == self.token.encode() else ["shm"],
            "messages received": self._messages(),
        }

    def close(self) -> None:
        for pid in self.facts["victims"].values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raw(self._calls, "msgctl", self.facts["message_queue"], _IPC_RMID, None)
        libc.mq_unlink(self.facts["posix_queue"].encode())
        os.unlink(self.facts["shm_file"])
        shutil.rmtree(self.dir)
        shutil.rmtree(self.shown)

    def _victim(self) -> int:
        pid = os.fork()
        if pid == 0:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)  # an error where there is no Yama
            os.setpgid(0, 0)
            while True:
                signal.pause()
        return pid

    def _sockets(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for name, family, kind, address in (
            ("tcp4", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            ("udp4", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("udp6", socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 0)),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, str(self.dir / "stream")),
            ("unix_dgram", socket.AF_UNIX, socket.SOCK_DGRAM, str(self.dir / "dgram")),
            ("unix_packet", socket.AF_UNIX, socket.SOCK_SEQPACKET, str(self.dir / "packet")),
            ("shown_stream", socket.AF_UNIX, socket.SOCK_STREAM, str(self.shown / "stream")),
            ("shown_dgram", socket.AF_UNIX, socket.SOCK_DGRAM, str(self.shown / "dgram")),
            ("shown_packet", socket.AF_UNIX, socket.SOCK_SEQPACKET, str(self.shown / "packet")),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0escape-{self.token}"),
            ("abstract_dgram", socket.AF_UNIX, socket.SOCK_DGRAM, f"\0escape-{self.token}-d"),
        ):
            try:
                listener = socket.socket(family, kind)
                listener.bind(address)
            except OSError:
                if family != socket.AF_INET6:
                    raise
                facts[name] = NO_IPV6
                continue
            if kind != socket.SOCK_DGRAM:
                listener.listen()
            bound = listener.getsockname()
            facts[name] = bound[1] if isinstance(bound, tuple) else os.fsdecode(bound)
            self._selector.register(listener, selectors.EVENT_READ, name)
        return facts

    def _shared(self) -> dict[str, Any]:
        """System V shared memory and messages, a POSIX queue and a file in /dev/shm, each with the token."""
        shm = raw(self._calls, "shmget", _IPC_PRIVATE, 4096, _IPC_CREAT | 0o666)
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(shm, None, 0)
        raw(self._calls, "shmctl", shm, _IPC_RMID, None)  # it goes with its last process
        self._shm = (ctypes.c_char * 4096).from_address(address)
        ctypes.memmove(self._shm, self.token.encode(), len(self.token))
        posix_queue = f"/escape-{self.token}"
        self._posix = check(
            libc.mq_open(posix_queue.encode(), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666, None)
        )
        shm_file = f"/dev/shm/escape-{self.token}"  # noqa: S108
        pathlib.Path(shm_file).write_text(self.token)
        return {
            "shm": shm,
            "message_queue": raw(self._calls, "msgget", _IPC_PRIVATE, _IPC_CREAT | 0o666),
            "posix_queue": posix_queue,
            "shm_file": shm_file,
        }

    def _key(self) -> int:
        """The serial number of a key that is everybody's; 0 where this kernel or account has no keys."""
        try:
            key = raw(
                self._calls,
                "add_key",
                b"user",
                b"escape",
                self.token.encode(),
                len(self.token),
                _PROCESS_KEYRING,
            )
            raw(self._calls, "keyctl", _KEYCTL_SETPERM, key, _ALL_PERMISSIONS)
        except OSError:
            return 0
        return key

    def _terminal(self) -> str:
        master, slave = pty.openpty()
        name = os.ttyname(slave)
        os.chmod(name, 0o666)  # noqa: S103
        os.set_blocking(master, False)
        self._listen_to(master, "terminal")
        self._slave = slave
        return name

    def _listen_to(self, descriptor: int, name: str) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, name)

    def _answer(self, source: Any, name: str) -> None:
        self._touched.append(name)
        if isinstance(source, int):
            if not os.read(source, 4096):
                self._selector.unregister(source)
        elif source.type == socket.SOCK_DGRAM:
            _, sender = source.recvfrom(4096)
            # The name of one that got out of its network namespace leads nowhere here.
            with contextlib.suppress(OSError):
                if sender:
                    source.sendto(self.token.encode(), sender)
        else:
            connection, _ = source.accept()
            connection.sendall(self.token.encode())
            connection.close()

    def _messages(self) -> list[str]:
        found = []
        buffer = ctypes.create_string_buffer(8192)
        if libc.mq_receive(self._posix, buffer, ctypes.c_size_t(8192), None) >= 0:
            found.append("posix queue")
        if libc.msgrcv(self.facts["message_queue"], buffer, ctypes.c_size_t(4096), 0, 0o4000) >= 0:
            found.append("message queue")
        return found

    def _files(self) -> dict[str, object]:
        files = [*self.dir.iterdir(), *self.shown.iterdir(), pathlib.Path(self.facts["shm_file"])]
        return {
            str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.is_file() and path.read_text())
            for path in files
        }


def _state(pid: int) -> str:
    """The state of a process as /proc says it, "" if it is gone."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("State:"))
    except FileNotFoundError:
        return ""
