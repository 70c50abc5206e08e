"""io_uring and its predecessor: second ways into the kernel, which no filter sees the operations of.

Together they are nine system calls, and a filter decides on each by itself: a hole for one is closed by none
of the others. So each has an attempt that makes it first: io_uring_setup, _enter and _register; io_setup,
_submit, _getevents, _pgetevents, _cancel and _destroy. Those nine are this class's distinct mechanisms.

All but the two that set up need what a ring or a context gives, and the sandbox gives none. They are made
without it, so that they can do nothing, and what only Linux itself answers to that shows that the call got
to it. The other attempts begin with a ring, so the sandbox stops them at io_uring_setup; the control shows
what each operation would open to who got one.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct

from .calls import AT_FDCWD, raw
from .table import Facts, RefusedError, preparing, probe

_SETUP_SQPOLL = 2
_OFFSET_RING, _OFFSET_ENTRIES = 0, 0x1000_0000
_ENTER_GETEVENTS = 1
_REGISTER_BUFFERS, _REGISTER_PROBE, _REGISTER_FILES = 0, 8, 2
_READ, _WRITE, _OPENAT, _CONNECT, _RENAMEAT, _UNLINKAT, _MKDIRAT, _SOCKET = 22, 23, 18, 16, 35, 36, 37, 45
_AT = AT_FDCWD & 0xFFFF_FFFF


class Ring:
    """One ring with room for one operation at a time."""

    def __init__(self, facts: Facts, flags: int = 0) -> None:
        self._facts = facts
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("I", parameters, 8, flags)
        self.descriptor = raw(facts, "io_uring_setup", 4, parameters)
        # struct io_uring_params: ten u32, then the offsets of the two rings
        self._submission = struct.unpack_from("8I", parameters.raw, 40)
        self._completion = struct.unpack_from("8I", parameters.raw, 80)
        with preparing("the ring's memory"):
            self._ring = mmap.mmap(self.descriptor, 4096, offset=_OFFSET_RING)
            self._entries = mmap.mmap(self.descriptor, 4096, offset=_OFFSET_ENTRIES)

    def do(
        self, operation: int, descriptor: int, offset: int, address: int, length: int, flags: int = 0
    ) -> int:
        """The result of one operation (struct io_uring_sqe); raises what it failed with."""
        self._entries[:64] = struct.pack(
            "BBHiQQII", operation, 0, 0, descriptor, offset, address, length, flags
        ).ljust(64, b"\0")
        _, tail, *_ = self._submission
        array = self._submission[6]
        (position,) = struct.unpack_from("I", self._ring, tail)
        struct.pack_into("I", self._ring, array + 4 * (position & 3), 0)
        struct.pack_into("I", self._ring, tail, position + 1)
        raw(self._facts, "io_uring_enter", self.descriptor, 1, 1, _ENTER_GETEVENTS, None, 0)
        head, _, mask, _, _, entries, *_ = self._completion
        (position,) = struct.unpack_from("I", self._ring, head)
        (mask_value,) = struct.unpack_from("I", self._ring, mask)
        _, result, _ = struct.unpack_from("QiI", self._ring, entries + 16 * (position & mask_value))
        struct.pack_into("I", self._ring, head, position + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    def open(self, path: str, flags: int) -> int:
        name = ctypes.create_string_buffer(path.encode())
        return self.do(_OPENAT, AT_FDCWD, 0, ctypes.addressof(name), 0o600, flags)


def _host(facts: Facts, name: str) -> str:
    return os.path.join(facts["host_dir"], name)


def _text(value: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(value.encode())


@probe("io_uring", "no ring can be had")
def make_a_ring(facts: Facts) -> str:
    Ring(facts)
    return "made one"


@probe("io_uring", "nor one that a kernel thread serves")
def make_a_ring_with_a_kernel_thread(facts: Facts) -> str:
    Ring(facts, _SETUP_SQPOLL)
    return "made one"


@probe("io_uring", "what operations there are cannot be asked")
def ask_for_the_operations(facts: Facts) -> str:
    ring, table = Ring(facts), ctypes.create_string_buffer(16 + 8 * 64)
    raw(facts, "io_uring_register", ring.descriptor, _REGISTER_PROBE, table, 64)
    return f"{table.raw[0]} operations"


@probe("io_uring", "memory cannot be pinned for a ring")
def pin_memory_for_a_ring(facts: Facts) -> str:
    ring, buffer = Ring(facts), ctypes.create_string_buffer(4096)
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 4096), 16)
    raw(facts, "io_uring_register", ring.descriptor, _REGISTER_BUFFERS, vector, 1)
    return "pinned it"


@probe("io_uring", "descriptors cannot be hidden in a ring")
def hide_a_descriptor_in_a_ring(facts: Facts) -> str:
    ring = Ring(facts)
    with preparing("a descriptor"):
        descriptor = os.open(".", os.O_RDONLY)
    raw(
        facts,
        "io_uring_register",
        ring.descriptor,
        _REGISTER_FILES,
        ctypes.create_string_buffer(struct.pack("i", descriptor), 4),
        1,
    )
    return "hid one"


@probe("io_uring", "no file of the host can be read through a ring")
def read_a_file_of_the_host_through_a_ring(facts: Facts) -> str:
    ring, buffer = Ring(facts), ctypes.create_string_buffer(64)
    descriptor = ring.open(_host(facts, "uring_read"), os.O_RDONLY)
    ring.do(_READ, descriptor, 0, ctypes.addressof(buffer), 63)
    if buffer.value != facts["token"].encode():
        raise RefusedError("something else was read")
    return "read the token"


@probe("io_uring", "nor written")
def write_a_file_of_the_host_through_a_ring(facts: Facts) -> str:
    ring, buffer = Ring(facts), _text("changed")
    descriptor = ring.open(_host(facts, "uring_write"), os.O_WRONLY)
    ring.do(_WRITE, descriptor, 0, ctypes.addressof(buffer), 7)
    return "wrote it"


@probe("io_uring", "nor removed")
def remove_a_file_of_the_host_through_a_ring(facts: Facts) -> str:
    ring, name = Ring(facts), _text(_host(facts, "uring_unlink"))
    ring.do(_UNLINKAT, AT_FDCWD, 0, ctypes.addressof(name), 0)
    return "removed it"


@probe("io_uring", "nor renamed")
def rename_a_file_of_the_host_through_a_ring(facts: Facts) -> str:
    ring, old, new = Ring(facts), _text(_host(facts, "uring_rename")), _text(_host(facts, "uring_new"))
    ring.do(_RENAMEAT, AT_FDCWD, ctypes.addressof(new), ctypes.addressof(old), _AT)
    return "renamed it"


@probe("io_uring", "no folder can be made on the host through a ring")
def make_a_folder_of_the_host_through_a_ring(facts: Facts) -> str:
    ring, name = Ring(facts), _text(_host(facts, "uring_folder"))
    ring.do(_MKDIRAT, AT_FDCWD, 0, ctypes.addressof(name), 0o700)
    return "made one"


@probe("io_uring", "no socket of a refused family can be made through a ring")
def make_a_socket_through_a_ring(facts: Facts) -> str:
    """Netlink for generic families: the filter refuses it to socket(2), but would not see it here."""
    return f"made {Ring(facts).do(_SOCKET, socket.AF_NETLINK, socket.SOCK_RAW, 0, 16)}"


@probe("io_uring", "no connection to the host can be made through a ring")
def connect_to_the_host_through_a_ring(facts: Facts) -> str:
    ring = Ring(facts)
    address = ctypes.create_string_buffer(
        struct.pack("=H", socket.AF_INET) + struct.pack(">H", facts["tcp4"]) + socket.inet_aton("127.0.0.1"),
        16,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as talker:
        ring.do(_CONNECT, talker.fileno(), 16, ctypes.addressof(address), 0)
        if talker.recv(64) != facts["token"].encode():
            raise RefusedError("somebody else answered")
    return "the token came back"


def _knock(facts: Facts, name: str, *arguments: object) -> str:
    """Make a call that asks for what there is not, and take Linux's own answer for having got there."""
    try:
        raw(facts, name, *arguments)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
        return f"Linux answered {errno.errorcode[error.errno]}"
    return "Linux did it"


@probe("io_uring", "a ring cannot be entered, whoever has made it")
def enter_a_ring(facts: Facts) -> str:
    return _knock(facts, "io_uring_enter", -1, 1, 0, 0, None, 0)


@probe("io_uring", "nothing can be registered with one")
def register_with_a_ring(facts: Facts) -> str:
    table = ctypes.create_string_buffer(16 + 8 * 64)
    return _knock(facts, "io_uring_register", -1, _REGISTER_PROBE, table, 64)


@probe("io_uring", "the older way of asynchronous files is closed too")
def make_a_context_for_asynchronous_files(facts: Facts) -> str:
    raw(facts, "io_setup", 4, ctypes.create_string_buffer(8))
    return "made one"


@probe("io_uring", "nothing can be submitted by it")
def submit_to_a_context(facts: Facts) -> str:
    return _knock(facts, "io_submit", 0, 1, ctypes.create_string_buffer(8))


@probe("io_uring", "nor waited for")
def wait_for_a_context(facts: Facts) -> str:
    return _knock(facts, "io_getevents", 0, 0, 1, ctypes.create_string_buffer(32), None)


@probe("io_uring", "nor with other signals meanwhile")
def wait_for_a_context_with_signals(facts: Facts) -> str:
    return _knock(facts, "io_pgetevents", 0, 0, 1, ctypes.create_string_buffer(32), None, None)


@probe("io_uring", "nor cancelled")
def cancel_in_a_context(facts: Facts) -> str:
    block, event = ctypes.create_string_buffer(64), ctypes.create_string_buffer(32)
    return _knock(facts, "io_cancel", 0, block, event)


@probe("io_uring", "no context can be destroyed")
def destroy_a_context(facts: Facts) -> str:
    return _knock(facts, "io_destroy", 0)
