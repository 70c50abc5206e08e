"""Files of the host: to read them, to change them, to leave something there, to watch them."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import signal
import stat
import struct

from .calls import AT_FDCWD, check, libc, raw
from .table import Facts, InconclusiveError, RefusedError, preparing, probe

_AT_SYMLINK_FOLLOW = 0x400
_O_TMPFILE = 0o20200000
_IN_OPEN = 0x20
_F_SETLEASE, _F_NOTIFY, _DN_ACCESS = 1024, 1026, 1


def _host(facts: Facts, name: str) -> str:
    return os.path.join(facts["host_dir"], name)


def _with_token(facts: Facts, text: str) -> str:
    if facts["token"] not in text:
        raise RefusedError(f"something else was read: {text[:40]!r}")
    return "read the token"


@probe("files", "the host's files cannot be read")
def read_a_file_of_the_host(facts: Facts) -> str:
    with open(_host(facts, "read")) as file:
        return _with_token(facts, file.read())


@probe("files", "no way leads up and out of the root folder")
def climb_out_by_dots(facts: Facts) -> str:
    for start in ("/proc/self/cwd", "/proc/self/root", "/tmp", "."):  # noqa: S108
        path = start + "/.." * 40 + _host(facts, "traverse")
        if os.path.exists(path):
            with open(path) as file:
                return _with_token(facts, file.read())
    raise RefusedError("no such file by any of four ways")


@probe("files", "a symbolic link is resolved inside")
def follow_a_symbolic_link_out(facts: Facts) -> str:
    link = f"symlink-{os.getpid()}"
    with preparing("the link"):
        os.symlink(_host(facts, "read"), link)
    with open(link) as file:
        return _with_token(facts, file.read())


@probe("files", "a file of the host cannot be overwritten, though its mode lets everyone")
def overwrite_a_file_of_the_host(facts: Facts) -> str:
    descriptor = os.open(_host(facts, "overwrite"), os.O_WRONLY)
    os.write(descriptor, b"changed")
    return "overwrote it"


@probe("files", "nothing can be made in a folder of the host that is open to everyone")
def make_a_file_in_a_folder_of_the_host(facts: Facts) -> str:
    os.close(os.open(_host(facts, "new"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return "made a file"


@probe("files", "nor without a name first")
def make_a_nameless_file_and_link_it(facts: Facts) -> str:
    descriptor = os.open(facts["host_dir"], _O_TMPFILE | os.O_WRONLY, 0o600)
    source, target = f"/proc/self/fd/{descriptor}".encode(), _host(facts, "nameless").encode()
    raw(facts, "linkat", AT_FDCWD, source, AT_FDCWD, target, _AT_SYMLINK_FOLLOW)
    return "linked a nameless file"


@probe("files", "a file of the host cannot be cut by its path")
def truncate_a_file_of_the_host(facts: Facts) -> str:
    os.truncate(_host(facts, "truncate"), 0)
    return "cut it"


@probe("files", "nor renamed")
def rename_a_file_of_the_host(facts: Facts) -> str:
    os.rename(_host(facts, "rename"), _host(facts, "renamed"))
    return "renamed it"


@probe("files", "nor removed")
def remove_a_file_of_the_host(facts: Facts) -> str:
    os.unlink(_host(facts, "unlink"))
    return "removed it"


@probe("files", "nor linked to a name of one's own")
def link_a_file_of_the_host(facts: Facts) -> str:
    os.link(_host(facts, "link"), _host(facts, "linked"))
    return "linked it"


@probe("files", "nor its mode and times changed")
def change_the_mode_of_a_file_of_the_host(facts: Facts) -> str:
    os.chmod(_host(facts, "chmod"), 0o4777)  # noqa: S103
    return "changed its mode"


@probe("files", "nor written through memory")
def write_a_file_of_the_host_through_memory(facts: Facts) -> str:
    descriptor = os.open(_host(facts, "map"), os.O_RDWR)
    with mmap.mmap(descriptor, 4) as memory:
        memory[:4] = b"none"
    return "wrote through a mapping"


@probe("files", "a named pipe of the host cannot be written")
def write_into_a_pipe_of_the_host(facts: Facts) -> str:
    descriptor = os.open(_host(facts, "fifo"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(descriptor, b"x")
    return "wrote into the pipe"


@probe("files", "not even one in a folder that is shown")
def write_into_a_shown_pipe(facts: Facts) -> str:
    descriptor = os.open(os.path.join(facts["shown_dir"], "pipe"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(descriptor, b"x")
    return "wrote into the pipe"


@probe("files", "nor can what others write into it be taken from it")
def take_from_a_shown_pipe(facts: Facts) -> str:
    os.close(os.open(os.path.join(facts["shown_dir"], "pipe"), os.O_RDONLY | os.O_NONBLOCK))
    return "opened the pipe"


@probe("files", "file handles, which know no mounts, open nothing")
def open_a_file_by_its_handle(facts: Facts) -> str:
    """The way out of early containers: a handle names a folder by its number alone. The handle is that of
    the host's folder where it can be seen, and of the root folder, from which all may be found, else."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount = ctypes.create_string_buffer(4)
    path = facts["host_dir"] if os.path.exists(facts["host_dir"]) else "/"
    raw(facts, "name_to_handle_at", AT_FDCWD, path.encode(), handle, mount, 0)
    start = os.open("/", os.O_RDONLY)
    folder = raw(facts, "open_by_handle_at", start, handle, os.O_RDONLY | os.O_DIRECTORY)
    descriptor = os.open("handle", os.O_RDONLY, dir_fd=folder)
    return _with_token(facts, os.read(descriptor, 4096).decode())


@probe("files", "system folders take nothing")
def write_into_system_folders(facts: Facts) -> str:
    errors = []
    for folder in (
        "/",
        "/etc",
        "/usr",
        "/usr/local",
        "/opt",
        "/var",
        "/bin",
        "/lib",
        "/dev",
        "/run",
        "/sys",
        "/proc",
    ):
        try:
            with open(os.path.join(folder, "escape"), "w"):
                return f"made a file in {folder}"
        except OSError as error:
            errors.append(error)
    raise errors[0]


@probe("files", "the interpreter's folders, which every sandbox loads code from, take nothing")
def plant_code_for_the_next_interpreter(facts: Facts) -> str:
    errors = []
    for folder in facts["library_folders"]:
        try:
            with open(os.path.join(folder, "escape.pth"), "w"):
                return f"made a file in {folder}"
        except OSError as error:
            errors.append(error)
    raise errors[0]


@probe("files", "what is shown cannot be opened to be changed")
def open_a_shown_file_for_writing(facts: Facts) -> str:
    """It is the interpreter's own, so neither this nor the next three change it where they may."""
    os.close(os.open(facts["read_only_file"], os.O_RDWR))
    return "opened it"


@probe("files", "nor its mode changed")
def change_the_mode_of_a_shown_file(facts: Facts) -> str:
    os.chmod(facts["read_only_file"], stat.S_IMODE(os.stat(facts["read_only_file"]).st_mode))
    return "set the mode that it has"


@probe("files", "nor its times")
def change_the_times_of_a_shown_file(facts: Facts) -> str:
    status = os.stat(facts["read_only_file"])
    os.utime(facts["read_only_file"], ns=(status.st_atime_ns, status.st_mtime_ns))
    return "set the times that it has"


@probe("files", "nor its name")
def rename_a_shown_file(facts: Facts) -> str:
    os.rename(facts["read_only_file"], facts["read_only_file"])
    return "gave it the name that it has"


@probe("files", "a file of /dev/shm of the host cannot be seen")
def read_shared_memory_of_the_host_as_a_file(facts: Facts) -> str:
    with open(facts["shm_file"]) as file:
        return _with_token(facts, file.read())


@probe("files", "what a neighbour keeps in its own folders cannot be seen")
def read_a_file_of_a_neighbour(facts: Facts) -> str:
    roots = ["/", *(f"/proc/{pid}/root" for pid in os.listdir("/proc") if pid.isdigit())]
    for root in roots:
        for name in facts["neighbour_files"]:
            path = root.rstrip("/") + name
            if os.path.exists(path):
                with open(path) as file:
                    if facts["neighbour_token"] in file.read():
                        return f"read {path}"
    raise RefusedError(f"not seen below {len(roots)} roots")


def _touch_in_a_child(path: str) -> None:
    child = os.fork()
    if child == 0:
        os.close(os.open(path, os.O_RDONLY))
        os._exit(0)
    os.waitpid(child, 0)


def _shared_file(facts: Facts) -> str:
    """A file that others open too: the library that every program loads, as this one sees it."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            path = line.split()[-1]
            if "/libc.so" in path or "/libc-" in path:
                return path
    raise InconclusiveError("no shared library is mapped")


@probe("files", "what others open of the shared libraries cannot be watched")
def watch_a_shared_library(facts: Facts) -> str:
    watch = check(libc.inotify_init())
    path = _shared_file(facts)
    check(libc.inotify_add_watch(watch, path.encode(), _IN_OPEN))
    _touch_in_a_child(path)
    if not select.select([watch], [], [], 1)[0]:
        raise RefusedError("nothing was seen")
    return f"saw {path} being opened"


@probe("files", "nor by the older way of directory signals")
def watch_a_shared_folder_by_signals(facts: Facts) -> str:
    with preparing("the folder"):
        folder = os.open(os.path.dirname(_shared_file(facts)), os.O_RDONLY)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    fcntl.fcntl(folder, _F_NOTIFY, _DN_ACCESS)
    return "the folder is watched"


@probe("files", "nobody can be made to wait by a lease")
def take_a_lease(facts: Facts) -> str:
    """On a file of one's own, which the kernel allows: the filter refuses it for every file."""
    with preparing("the file"):
        descriptor = os.open(f"lease-{os.getpid()}", os.O_CREAT | os.O_RDWR)
    fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_WRLCK)
    return "took a lease"
