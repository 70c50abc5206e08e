"""`relay install`: puts the folder that the relay runs from into another one, for an image that has no relay.

An init container does this into a volume that the kernel's container then mounts read-only at
`command.FOLDER`. It is on the way of every start, so the system copies (sendfile(2)), and only built-in
modules are imported.

`closed` is a folder that nobody but root may enter, not even its owner, whom a read-only mount keeps from
changing that. A kubelet mounts a file of its own, which everybody may write to, where a container's
`terminationMessagePath` says; there it is out of the kernel's reach.
"""

import os
import sys

#: Bytes for one sendfile(2), which takes no more (its manual page).
_MOST = 0x7FFFF000
_FOLDER_MODE = 0o555
CLOSED = "closed"
#: What a pod's `terminationMessagePath` names, below the relay's folder.
TERMINATION_LOG = f"{CLOSED}/termination-log"


def install(target: str) -> None:
    """Copy the relay into the folder `target`, where an earlier attempt may have left something.

    Exits 1 with a sentence where it cannot.
    """
    source = __file__.rsplit("/", 3)[0]
    try:
        _fill(source, target)
        _make_closed(target)
    except OSError as error:
        sys.exit(f"relay: the relay cannot be put into {target!r}: {error}")


def _fill(source: str, target: str) -> None:
    for entry in os.scandir(source):
        copy = f"{target}/{entry.name}"
        if entry.name == CLOSED:
            continue  # it may not be looked into here either
        if entry.is_dir():
            _make_folder(copy)
            _fill(entry.path, copy)
            os.chmod(copy, _FOLDER_MODE)
        else:
            _copy(entry.path, copy)


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        os.chmod(path, 0o700)


def _make_closed(target: str) -> None:
    _make_folder(f"{target}/{CLOSED}")
    # For the runtime to mount over: it can make none on a read-only mount.
    os.close(os.open(f"{target}/{TERMINATION_LOG}", os.O_CREAT, 0o400))
    os.chmod(f"{target}/{CLOSED}", 0)


def _copy(source: str, target: str) -> None:
    """Readable for everybody, because a pod's users may be others; runnable where the source is."""
    try:  # noqa: SIM105 (contextlib is one more import before the kernel runs)
        os.unlink(target)
    except FileNotFoundError:
        pass
    reading = os.open(source, os.O_RDONLY)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    while os.sendfile(writing, reading, None, _MOST):
        pass
    os.fchmod(writing, 0o555 if os.fstat(reading).st_mode & 0o100 else 0o444)
    os.close(reading)
    os.close(writing)
