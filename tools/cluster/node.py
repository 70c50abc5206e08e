"""The first process of a node's namespaces: makes its file system, then waits to be killed.

It is started by the keeper below `unshare`. Programs of the node find their usual places, which are folders
of the instance's state: /var/lib, /var/log, and a /run that is nobody else's. What they mount stays in here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from .instance import NODE, Instance

#: Where the node sees what `parts` has built, a folder each.
PARTS = "/run/parts"

#: The kubelet writes these, which are the whole machine's, unless they already are so
#: (k8s.io/kubernetes/pkg/util/sysctl). It reads files of the node's own in their places instead.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_NETWORK_SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/all/forwarding": "1",
}


def main() -> None:
    instance = Instance(int(sys.argv[1]))
    parts = [Path(argument) for argument in sys.argv[2:]]
    subprocess.run(["hostname", NODE], check=True)
    _mount_everything(instance, parts)
    for name, value in _NETWORK_SETTINGS.items():
        setting = Path("/proc/sys/net", name)
        if setting.exists():
            setting.write_text(value)
    print("made", flush=True)
    # The kernel itself then reaps whatever ends in here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        signal.pause()


def _mount_everything(instance: Instance, parts: list[Path]) -> None:
    run = instance.state / "run"
    run.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=755", "run", run)
    for part in parts:
        # Bound before /run and /var/lib are covered, below which the cache may lie.
        place = run / "parts" / part.name.rpartition("-")[0]
        place.mkdir(parents=True)
        _mount("--bind", part, place)
    # A pod with users of its own may mount /proc only where one is seen that nothing covers
    # (mount_too_revealing in the kernel's fs/namespace.c).
    (run / "proc").mkdir()
    _mount("-t", "proc", "proc", run / "proc")
    for name, value in _KERNEL_SETTINGS.items():
        stand_in = run / "settings" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(value + "\n")
        if Path("/proc/sys", name).exists():
            _mount("--bind", stand_in, Path("/proc/sys", name))
    _mount("--rbind", run, Path("/run"))
    _mount("--bind", instance.log, Path("/var/log"))
    _mount("--bind", instance.lib, Path("/var/lib"))
    # Volumes reach containers by propagation; `unshare` has cut the host off before.
    _mount("--make-rshared", Path("/"))


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
