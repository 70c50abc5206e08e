"""Raw system calls that no kernel needs: each is a part of the kernel that has let people out before.

The calls are made so that they succeed where they are allowed, and do nothing that lasts.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import struct

from .calls import AT_FDCWD, check, libc, raw
from .processes import iovec
from .table import Facts, InconclusiveError, RefusedError, preparing, probe

_PTRACE_TRACEME = 0
_UFFD_USER_MODE_ONLY = 1
_FAN_REPORT_FID = 0x200
_PERF_TASK_CLOCK = struct.pack("=IIQQQQQ", 1, 120, 1, 0, 0, 0, 0b1100001)
_ADDR_NO_RANDOMIZE = 0x0040_0000
_IPC_NOWAIT = 0o4000
_BPF_PROG_LOAD, _SOCKET_FILTER = 5, 1
_SYSLOG_READ_ALL = 3
_SECCOMP_SET_MODE_FILTER, _RET_ALLOW = 1, struct.pack("=HBBI", 6, 0, 0, 0x7FFF_0000)


def _child_that_waits() -> int:
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    return child


#: Shared memory without a file is refused where no control group counts it; it is not what is tried here.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@probe("raw calls", "programs cannot be loaded into the kernel")
def load_a_program_into_the_kernel(facts: Facts) -> str:
    instructions = ctypes.create_string_buffer(struct.pack("=QQ", 0xB7, 0x95), 16)  # r0 = 0; exit
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIQQ", _SOCKET_FILTER, 2, ctypes.addressof(instructions), ctypes.addressof(licence)),
        128,
    )
    raw(facts, "bpf", _BPF_PROG_LOAD, attributes, 128)
    return "loaded one"


@probe("raw calls", "events cannot be counted")
def count_own_events(facts: Facts) -> str:
    attributes = ctypes.create_string_buffer(_PERF_TASK_CLOCK, 120)
    raw(facts, "perf_event_open", attributes, 0, -1, -1, 0)
    return "opened a counter"


@probe("raw calls", "page faults cannot be held up, with which races in the kernel are won")
def handle_page_faults(facts: Facts) -> str:
    raw(facts, "userfaultfd", _UFFD_USER_MODE_ONLY)
    return "handles them"


@probe("raw calls", "memory that the kernel cannot see")
def make_secret_memory(facts: Facts) -> str:
    raw(facts, "memfd_secret", 0)
    return "made it"


@probe("raw calls", "the layout of memory cannot be made predictable")
def switch_off_address_randomization(facts: Facts) -> str:
    raw(facts, "personality", _ADDR_NO_RANDOMIZE)
    return "switched it off"


@probe("raw calls", "segments of the processor cannot be defined")
def define_a_segment(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(16)
    raw(facts, "modify_ldt", 0, buffer, 16)
    return "may define them"


@probe("raw calls", "the 32-bit entry of the kernel is closed")
def enter_the_kernel_by_interrupt(facts: Facts) -> str:
    if platform.machine() != "x86_64":
        raise RefusedError("this architecture has no such entry")
    with preparing("a page"):
        page = mmap.mmap(-1, 4096, _PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if function() != os.getpid():
        raise RefusedError("the kernel did not answer")
    return "it answered"


@probe("raw calls", "files have no handles")
def get_a_file_handle(facts: Facts) -> str:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount = ctypes.create_string_buffer(4)
    with preparing("a file"):
        os.close(os.open(f"handle-{os.getpid()}", os.O_CREAT | os.O_WRONLY))
    raw(facts, "name_to_handle_at", AT_FDCWD, f"handle-{os.getpid()}".encode(), handle, mount, 0)
    return "got one"


@probe("raw calls", "file events of a whole file system cannot be asked for")
def watch_a_whole_file_system(facts: Facts) -> str:
    raw(facts, "fanotify_init", _FAN_REPORT_FID, 0)
    return "may watch"


@probe("raw calls", "the kernel's objects cannot be compared")
def compare_objects_of_the_kernel(facts: Facts) -> str:
    raw(facts, "kcmp", os.getpid(), os.getpid(), 0, 0, 1)
    return "compared two files"


@probe("raw calls", "a process cannot be traced, not even an own child")
def trace_an_own_child(facts: Facts) -> str:
    raw(facts, "ptrace", _PTRACE_TRACEME, 0, 0, 0)
    return "is traced"


@probe("raw calls", "nor its memory read")
def read_the_memory_of_an_own_child(facts: Facts) -> str:
    source, target = ctypes.create_string_buffer(b"secret"), ctypes.create_string_buffer(7)
    local, remote = iovec(ctypes.addressof(target), 6), iovec(ctypes.addressof(source), 6)
    raw(facts, "process_vm_readv", _child_that_waits(), local, 1, remote, 1, 0)
    return f"read {target.value!r}"


@probe("raw calls", "nor its descriptors taken")
def take_a_descriptor_of_an_own_child(facts: Facts) -> str:
    with preparing("a descriptor of the child"):
        descriptor = os.pidfd_open(_child_that_waits())
    return f"took {raw(facts, 'pidfd_getfd', descriptor, 0, 0)}"


@probe("raw calls", "pages of a mapping cannot be shuffled")
def shuffle_the_pages_of_a_mapping(facts: Facts) -> str:
    with preparing("a mapping"), open(f"pages-{os.getpid()}", "w+b") as file:
        file.truncate(8192)
        pages = mmap.mmap(file.fileno(), 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    raw(facts, "remap_file_pages", address, 4096, 0, 1, 0)
    return "shuffled them"


@probe("raw calls", "pages of a process cannot be given to a pipe")
def give_pages_to_a_pipe(facts: Facts) -> str:
    with preparing("a pipe"):
        _, writer = os.pipe()
    buffer = ctypes.create_string_buffer(b"x" * 16)
    raw(facts, "vmsplice", writer, iovec(ctypes.addressof(buffer), 16), 1, 0)
    return "gave them"


@probe("raw calls", "pages cannot be moved between memories")
def move_pages_of_a_process(facts: Facts) -> str:
    raw(facts, "move_pages", 0, 0, None, None, None, 0)
    return "may move them"


@probe("raw calls", "nor all of a process's")
def migrate_pages_of_a_process(facts: Facts) -> str:
    nodes = ctypes.create_string_buffer(struct.pack("Q", 1), 8)
    raw(facts, "migrate_pages", 0, 64, nodes, nodes)
    return "migrated them"


@probe("raw calls", "filters cannot be added, with which a process answers its children's calls")
def answer_the_calls_of_a_child(facts: Facts) -> str:
    instructions = ctypes.create_string_buffer(_RET_ALLOW, 8)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(instructions)), 16)
    if libc.prctl(38, ctypes.c_ulong(1), 0, 0, 0):
        raise InconclusiveError("no_new_privs could not be set")
    raw(facts, "seccomp", _SECCOMP_SET_MODE_FILTER, 8, program)  # SECCOMP_FILTER_FLAG_NEW_LISTENER
    return "answers them"


@probe("raw calls", "nor by the older way")
def add_a_filter(facts: Facts) -> str:
    instructions = ctypes.create_string_buffer(_RET_ALLOW, 8)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(instructions)), 16)
    if libc.prctl(38, ctypes.c_ulong(1), 0, 0, 0):
        raise InconclusiveError("no_new_privs could not be set")
    check(libc.prctl(22, 2, ctypes.byref(program), 0, 0))
    return "added one"


@probe("raw calls", "shared memory of the host cannot be attached")
def attach_shared_memory_of_the_host(facts: Facts) -> str:
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(facts["shm"], None, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if ctypes.string_at(address, 32) != facts["token"].encode():
        raise RefusedError("it was another")
    return "read the token"


@probe("raw calls", "a message queue of the host cannot be written (System V)")
def send_a_message_to_the_host(facts: Facts) -> str:
    message = ctypes.create_string_buffer(struct.pack("l4s", 1, b"here"), 12)
    raw(facts, "msgsnd", facts["message_queue"], message, 4, _IPC_NOWAIT)
    return "sent one"


@probe("raw calls", "nor made")
def make_a_message_queue(facts: Facts) -> str:
    return f"made {raw(facts, 'msgget', 0, 0o1600)}"


@probe("raw calls", "nor one of the newer kind (POSIX)")
def send_a_message_to_the_host_by_name(facts: Facts) -> str:
    queue = check(libc.mq_open(facts["posix_queue"].encode(), os.O_WRONLY | os.O_NONBLOCK))
    check(libc.mq_send(queue, b"here", ctypes.c_size_t(4), 0))
    return "sent one"


@probe("raw calls", "what others have read lately cannot be asked of the page cache")
def ask_the_page_cache(facts: Facts) -> str:
    statistics = ctypes.create_string_buffer(40)
    with preparing("a file"):
        descriptor = os.open(f"cached-{os.getpid()}", os.O_CREAT | os.O_RDWR)
        os.write(descriptor, bytes(4096))
    raw(facts, "cachestat", descriptor, ctypes.create_string_buffer(16), statistics, 0)
    return f"{struct.unpack_from('Q', statistics.raw)[0]} pages are cached"


@probe("raw calls", "advice on memory cannot be given through a descriptor of a process")
def advise_on_the_memory_of_a_process(facts: Facts) -> str:
    """On its own; for another's the kernel wants a capability of the machine."""
    with preparing("a descriptor of itself"):
        descriptor = os.pidfd_open(os.getpid())
        page = mmap.mmap(-1, 4096, _PRIVATE)
    vector = iovec(ctypes.addressof(ctypes.c_char.from_buffer(page)), 4096)
    raw(facts, "process_madvise", descriptor, vector, 1, 20, 0)  # MADV_COLD
    return "gave it"


@probe("raw calls", "the clock's rate cannot be asked for by the call that also sets it")
def ask_for_the_rate_of_the_clock(facts: Facts) -> str:
    raw(facts, "adjtimex", ctypes.create_string_buffer(208))
    return "asked"


@probe("raw calls", "all of the host's files cannot be forced to disk")
def force_everything_to_disk(facts: Facts) -> str:
    with preparing("a folder"):
        folder = os.open(".", os.O_RDONLY)
    raw(facts, "syncfs", folder)
    return "forced them"


@probe("raw calls", "the kernel's log cannot be read")
def read_the_log_of_the_kernel(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(64)
    raw(facts, "syslog", _SYSLOG_READ_ALL, buffer, 64)
    return "read it"
