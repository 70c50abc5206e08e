"""How each limit of a sandbox is kept on this machine, in lines for a log, a table or `--show-config`."""

from __future__ import annotations

from collections.abc import Sequence

from .backends.base import LimitReport


def limit_lines(limits: Sequence[LimitReport]) -> list[str]:
    """A line a limit; "best effort" marks one that a determined program can evade here."""
    name_width = max([len(limit.name) for limit in limits], default=0)
    value_width = max([len(limit.value) for limit in limits], default=0)
    return [
        f"limit    {limit.name:<{name_width}}  {limit.value:<{value_width}}  by {limit.enforced_by}"
        + (" (best effort)" if limit.best_effort else "")
        for limit in limits
    ]
