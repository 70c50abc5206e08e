"""The session with one relay, and what waits for its clients."""

from .inbox import Inbox
from .session import (
    REQUEST_SLACK,
    STATES,
    ControlError,
    Link,
    LinkClosedError,
    LinkError,
    LinkListener,
    Route,
)

__all__ = [
    "REQUEST_SLACK",
    "STATES",
    "ControlError",
    "Inbox",
    "Link",
    "LinkClosedError",
    "LinkError",
    "LinkListener",
    "Route",
]
