"""Which environment variables of a request reach its kernel: those on a list, and no others.

jupyter_server sends everything in its environment that starts with KERNEL_, and more if told to. A name
that is not allowed is no error whatever its value, or no notebook would start; it is left out, counted, and
logged once. Values are never logged. None of what passes grants anything: who the caller is, authentication
says.
"""

from __future__ import annotations

import logging
from typing import Any

from prometheus_client import Counter

from ..errors import HttpError, quoted
from . import body

#: Characters of a value, with room beside it for others: a frame that starts a kernel has 256 KiB for all
#: (protocol.md 1.1), and Linux takes 128 KiB for one (MAX_ARG_STRLEN).
MAX_VALUE = 16 * 1024

#: Names remembered so as to be logged once. A client that invents more is counted, no longer named.
_MAX_REMEMBERED = 1000

LOG = logging.getLogger("gateway.web")


class EnvironmentFilter:
    """Passes the variables whose names are in `allowed`; `dropped` counts the others."""

    def __init__(self, allowed: frozenset[str], dropped: Counter) -> None:
        self._allowed = allowed
        self._dropped = dropped
        self._logged: set[str] = set()

    def passes(self, env: dict[str, Any]) -> dict[str, str]:
        """What of a request's `env` may reach the kernel.

        Raises `HttpError` 400 where a name may pass and its value is none that an environment can hold. The
        values of other names are not looked at.
        """
        for name in env.keys() - self._allowed:
            self._dropped.inc()
            if name not in self._logged and len(self._logged) < _MAX_REMEMBERED:
                self._logged.add(name)
                LOG.info(
                    "requests may not pass %s to a kernel: left out. allowed_env lists those that may",
                    quoted(name),
                )
        return {name: _value(env, name) for name in env if name in self._allowed}


def _value(env: dict[str, Any], name: str) -> str:
    value = body.text(env, name, MAX_VALUE)
    if value is None:
        raise HttpError(400, f"{quoted(name)} in 'env' is null. Send a string, or leave it out.")
    return value
