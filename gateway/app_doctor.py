"""`jupyter gateway doctor`: can sandboxes be made on this machine, and are they isolated?

The backend's own checks, as a table for a person or as JSON for a script. The exit status is 0 when nothing
is wrong, 1 when something is, and 2 when nothing is, but something could not be told.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import textwrap
from collections.abc import Sequence

from traitlets import Bool

from .app import JupyterGateway
from .app_limits import limit_lines
from .app_options import StrictApp
from .backends.base import Backend, Check, LimitReport

_STATUS = {True: 0, False: 1, None: 2}
_MARKS = {True: "ok", False: "FAILED", None: "unknown"}


class Doctor(JupyterGateway):
    """Runs the backend's checks, prints them, and exits."""

    name = "jupyter-gateway-doctor"
    description = "Show whether sandboxes can be made on this machine, and that they are isolated."
    examples = """
        jupyter gateway doctor
        jupyter gateway doctor --json
    """
    flags = {
        **StrictApp.flags,
        "json": ({"Doctor": {"json": True}}, "Print JSON, for scripts."),
    }
    aliases = {**StrictApp.aliases, "backend": "JupyterGateway.backend"}
    subcommands = {}

    json = Bool(False, config=True, help="Print JSON, for scripts.")

    def serve(self) -> None:
        """Look, and exit."""
        backend = self.make_backend()
        checks = asyncio.run(_look(backend))
        limits = backend.describe_limits()
        print(as_json(self.backend, checks, limits) if self.json else as_table(checks, limits))
        self.exit(_STATUS[verdict(checks)])


async def _look(backend: Backend) -> Sequence[Check]:
    try:
        return await backend.checks()
    finally:
        await backend.close()


def verdict(checks: Sequence[Check]) -> bool | None:
    """Of all together: None where nothing is wrong, and something could not be told."""
    verdicts = {check.ok for check in checks}
    return False if False in verdicts else None if None in verdicts else True


def as_json(backend: str, checks: Sequence[Check], limits: Sequence[LimitReport]) -> str:
    """`backend`, `checks`, `limits`, and `ok`: true, false, or null where something could not be told."""
    return json.dumps(
        {
            "backend": backend,
            "ok": verdict(checks),
            "checks": [dataclasses.asdict(check) for check in checks],
            "limits": [dataclasses.asdict(limit) for limit in limits],
        },
        indent=2,
    )


def as_table(checks: Sequence[Check], limits: Sequence[LimitReport]) -> str:
    """A line for each check, with the remedy below it where it is not well; then how each limit is kept."""
    width = max([len(check.name) for check in checks], default=0)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.ok]:<8} {check.name:<{width}}  {check.detail}".rstrip())
        if not check.ok and check.remedy:
            lines += textwrap.wrap(
                check.remedy, 100, initial_indent="         -> ", subsequent_indent="            "
            )
    return "\n".join([*lines, "", *limit_lines(limits)])
