"""Where the UID of a sandbox can reach what it is shown, although the folders above may be closed to it.

A gateway that is root may have its interpreter below root's home. So what a kernelspec shows is bound under
a root-owned tmpfs of mode 0755 in a mount namespace of its own, and the sandbox is built from there; nobody
else sees those mounts. A namespace is made once per set of paths and kept by a descriptor; entering it
costs about 1 ms, making it about 20.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..base import BackendError
from .command import OUTER_ENVIRONMENT

#: Covered by the staged folders within the namespace; nothing that builds a sandbox needs it.
_STAGED = "/mnt"

#: $1 is an empty folder, the rest are the paths. The first mount is made elsewhere and moves last, because a
#: path may lie below /mnt. Disks and shares that come and go are let go, the last one first: a copy of their
#: mount would keep them busy after they were unmounted outside.
_SCRIPT = rf"""set -e
stage=$1; shift; i=0
mount -n -t tmpfs -o mode=0755,size=1m,nosuid,nodev stage "$stage"
for path; do
    i=$((i + 1))
    if [ -d "$path" ]; then mkdir "$stage/$i"; else : >"$stage/$i"; fi
    mount -n --rbind "$path" "$stage/$i"
done
mount -n -o remount,ro "$stage"
tac /proc/self/mountinfo | while read -r _ _ _ _ place _; do
    case $place in /media/* | /mnt | /mnt/* | /run/media/* | /srv | /srv/*) ;; *) continue ;; esac
    place=$(printf %b "$(printf %s "$place" | sed 's/\\/\\0/g')")
    case $stage/ in "$place"/*) continue ;; esac
    umount -n -l "$place" 2>/dev/null || true
done
mount -n --move "$stage" {_STAGED}
echo staged
read -r _ || true
"""

#: Seconds; it takes about 20 ms on an idle machine.
_PATIENCE = 20


class Stage(NamedTuple):
    """A namespace: a descriptor of it, and where each path is found in it."""

    namespace: int
    where: Mapping[str, str]


class Stages:
    """The namespaces of one gateway. `folder` is an empty folder that stays empty."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stages: dict[tuple[str, ...], tuple[list[tuple[int, int]], Stage]] = {}
        self._lock = asyncio.Lock()

    async def get(self, paths: Sequence[str]) -> Stage:
        """The stage of these paths; made anew where one of them is another file than it was."""
        key = tuple(paths)
        async with self._lock:
            identity = _identity(key)
            known = self._stages.get(key)
            if known is not None:
                if known[0] == identity:
                    return known[1]
                os.close(known[1].namespace)
                del self._stages[key]
            stage = await self._make(key)
            self._stages[key] = (identity, stage)
            return stage

    async def _make(self, paths: Sequence[str]) -> Stage:
        process = await asyncio.create_subprocess_exec(
            *["unshare", "--mount", "--propagation", "private", "--"],
            *["sh", "-c", _SCRIPT, "sh", self._folder, *paths],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=OUTER_ENVIRONMENT,
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                line = await process.stdout.readline()  # type: ignore[union-attr]
                if line != b"staged\n":
                    _, problem = await process.communicate()
                    raise BackendError(
                        "The folders of the kernel could not be prepared for its sandbox: "
                        f"{problem.decode(errors='replace').strip() or 'mount gave no reason'}."
                    )
            namespace = os.open(f"/proc/{process.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except TimeoutError:
            raise BackendError(f"Preparing the folders of the kernel took over {_PATIENCE} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
        return Stage(namespace, {path: f"{_STAGED}/{i}" for i, path in enumerate(paths, 1)})

    def close(self) -> None:
        """Let the namespaces go."""
        for _, stage in self._stages.values():
            os.close(stage.namespace)
        self._stages.clear()


def _identity(paths: Sequence[str]) -> list[tuple[int, int]]:
    try:
        return [(status.st_dev, status.st_ino) for status in map(os.stat, paths)]
    except OSError as error:
        raise BackendError(
            f"{error.filename}, which the kernel needs, cannot be read: {error.strerror}."
        ) from None
