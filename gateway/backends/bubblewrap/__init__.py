"""Sandboxes on this machine, with nothing to install but bubblewrap.

    gateway ==socket pair==> bwrap's monitor -- PID 1 of the sandbox: the relay -- the kernel

| module | |
|---|---|
| `backend` | the contract of `backends.base`, its configuration, the start |
| `visible`, `settings`, `limits` | what a kernelspec gets: paths of the host, its settings, its limits |
| `hidden`, `endpoints`, `chain` | what it does not get: secrets, ways to programs, what others may exchange |
| `launcher`, `sandbox`, `tree`, `lastwords` | from a request to processes, and to nothing again |
| `command` | the command line, a pure function: the whole contract of a sandbox on one page |
| `staging`, `uids`, `cgroups` | what a gateway that is root adds: reach, host UIDs, control groups |
| `instance`, `sweep` | what belongs to one run of a gateway, and who cleans up when it is killed |
| `selfcheck`, `diagnosis` | the proof of isolation, and what to do where there is none |

The system call filter is `gateway.relay.seccomp`, because the relay of a pod loads the same.

The sandboxes end with their gateway: `survives_gateway` is false.
"""

from .backend import BubblewrapBackend

__all__ = ["BubblewrapBackend"]
