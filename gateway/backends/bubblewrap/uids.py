"""A host UID of its own for each sandbox of a gateway that is root.

UIDs come from a range that belongs to nobody and are leased by open-file-description locks (fcntl(2),
F_OFD_SETLK) on one byte each of one file, the byte's offset being the UID. So gateways never share one,
a lease costs no descriptor, and it ends with whoever holds the file open: the gateway and its watcher, which
has then ended what ran under it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import struct
from pathlib import Path

from ..base import CapacityError, IsolationError

#: `struct flock` of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (which must be 0).
_FLOCK = struct.Struct("hhqqixxxx")

#: Where both the kernel and user namespaces stop: UID -1 is none, and (1<<31) is not portable.
_HIGHEST = (1 << 31) - 1


class UidLeases:
    """The UIDs of one gateway, from `first` to `last`."""

    def __init__(self, path: Path, first: int, last: int) -> None:
        """Raises `IsolationError` for a range that cannot be used here, `OSError` for the file."""
        self._range = range(first, last + 1)
        self._next = first
        #: A lock does not keep out who has it, so the own leases are kept here too.
        self._leased: set[int] = set()
        self._check(first, last)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def lease(self) -> int:
        """A UID that no other sandbox of this machine has; raises `CapacityError` when all are taken.

        They are taken in turn, so that one is not used again right after its release.
        """
        for _ in self._range:
            uid = self._next
            self._next = uid + 1 if uid + 1 in self._range else self._range.start
            if uid not in self._leased and not _has_name(uid) and self._lock(uid, fcntl.F_WRLCK):
                self._leased.add(uid)
                return uid
        raise CapacityError(
            f"All {len(self._range)} host UIDs for sandboxes are taken. Delete a kernel, or widen "
            "BubblewrapBackend.uid_range."
        )

    def release(self, uid: int) -> None:
        """Give a UID back once nothing runs under it."""
        self._leased.discard(uid)
        self._lock(uid, fcntl.F_UNLCK)

    def close(self) -> None:
        """Give everything back, unless another process shares the descriptor."""
        os.close(self.descriptor)

    def _lock(self, uid: int, kind: int) -> bool:
        request = _FLOCK.pack(kind, os.SEEK_SET, uid, 1, 0)
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    @staticmethod
    def _check(first: int, last: int) -> None:
        if not 0 < first <= last <= _HIGHEST:
            raise IsolationError(
                f"BubblewrapBackend.uid_range is ({first}, {last}) and must be two UIDs, the smaller first, "
                f"from 1 to {_HIGHEST}."
            )
        if not _is_mapped(first, last, Path("/proc/self/uid_map").read_text()):
            raise IsolationError(
                f"The host UIDs {first} to {last} do not exist in this gateway's user namespace. Set "
                "BubblewrapBackend.uid_range to UIDs that do (see /proc/self/uid_map)."
            )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _is_mapped(first: int, last: int, uid_map: str) -> bool:
    """Whether one line of a uid_map (user_namespaces(7)) holds the whole range."""
    lines = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    return any(inside <= first and last < inside + count for inside, _, count in lines)
