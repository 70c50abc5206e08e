"""The session with one relay, and what waits for its clients."""

from .errors import ControlError, LinkClosedError, LinkError
from .inbox import Inbox, InboxFullError
from .listener import LinkListener
from .route import Route
from .session import REQUEST_SLACK, Link

__all__ = [
    "REQUEST_SLACK",
    "ControlError",
    "Inbox",
    "InboxFullError",
    "Link",
    "LinkClosedError",
    "LinkError",
    "LinkListener",
    "Route",
]
