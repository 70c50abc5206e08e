"""What ends a link."""

from __future__ import annotations


class LinkError(Exception):
    """The gateway broke a rule of docs/protocol.md; the message names it."""
