"""What a link raises, and what ends it."""

from __future__ import annotations


class LinkError(Exception):
    """Base of what a link raises."""


class LinkClosedError(LinkError):
    """The link has ended; the message is the reason."""


class ControlError(LinkError):
    """The relay could not do what it was asked; the message is its sentence (hostile text, bounded)."""


class ProtocolError(Exception):
    """The relay broke a rule of docs/protocol.md. It never leaves the link, which it ends."""
