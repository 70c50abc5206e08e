"""Which environment variables of a request reach its kernel: those on a list, and no others.

jupyter_server sends everything in its environment that starts with KERNEL_, and more if told to. A name
that is not allowed is no error, or no notebook would start; it is left out, counted, and logged
once. Values are never logged. None of what passes grants anything: who the caller is, authentication says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from prometheus_client import Counter

from ..errors import quoted

#: Names remembered so as to be logged once. A client that invents more is counted, no longer named.
_MAX_REMEMBERED = 1000

LOG = logging.getLogger("gateway.web")


class EnvironmentFilter:
    """Passes the variables whose names are in `allowed`; `dropped` counts the others."""

    def __init__(self, allowed: frozenset[str], dropped: Counter) -> None:
        self._allowed = allowed
        self._dropped = dropped
        self._logged: set[str] = set()

    def passes(self, env: Mapping[str, str]) -> dict[str, str]:
        """What of `env` may reach the kernel."""
        for name in env.keys() - self._allowed:
            self._dropped.inc()
            if name not in self._logged and len(self._logged) < _MAX_REMEMBERED:
                self._logged.add(name)
                LOG.info(
                    "requests may not pass %s to a kernel: left out. allowed_env lists those that may",
                    quoted(name),
                )
        return {name: value for name, value in env.items() if name in self._allowed}
