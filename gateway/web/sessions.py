"""Sessions: which kernel belongs to which notebook or console, so that a client that comes back finds it.

A session is an owner's (path, type) with a kernel; one of them is made once, also when two requests ask
for it at the same time. It lives as long as its kernel: a session whose kernel has gone is forgotten
the next time anyone looks. So they are kept with their kernel, and found again by a gateway that adopts it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import uuid
import weakref
from typing import Any

from ..auth import Identity
from ..errors import HttpError, quoted
from ..kernels.errors import NoSuchKernelError
from ..kernels.kernel import Kernel
from ..kernels.registry import Kernels

#: What is kept of a session, in this order.
_KEPT = ("id", "owner", "path", "name", "type")

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Session:
    """One of them. `type` is `notebook`, `console`, `file` or whatever a client says."""

    id: str
    owner: str
    path: str
    name: str
    type: str
    kernel: Kernel

    #: Held while the session is changed, which may take as long as a kernel's start.
    changing: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock, repr=False, compare=False)

    def model(self) -> dict[str, Any]:
        """The session's JSON. jupyter_server adds `notebook` for older clients."""
        model = {
            "id": self.id,
            "path": self.path,
            "name": self.name,
            "type": self.type,
            "kernel": self.kernel.model(),
        }
        if self.type == "notebook":
            model["notebook"] = {"path": self.path, "name": self.name}
        return model


class Sessions:
    """The sessions of this gateway."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._sessions: dict[str, Session] = {}
        self._making: weakref.WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        for kernel in kernels.list():
            for session in _remembered(kernel):
                self._sessions[session.id] = session

    def making(self, owner: str, path: str, kind: str) -> asyncio.Lock:
        """The lock under which the session of this path and type is looked for and made."""
        key = (owner, path, kind)
        lock = self._making.get(key)
        if lock is None:
            lock = self._making[key] = asyncio.Lock()
        return lock

    def add(self, owner: str, path: str, name: str, kind: str, kernel: Kernel) -> Session:
        """A new session."""
        session = Session(str(uuid.uuid4()), owner, path, name, kind, kernel)
        self._sessions[session.id] = session
        self.changed(kernel)
        return session

    def changed(self, kernel: Kernel) -> None:
        """Its sessions are other ones than they were, or have changed: keep them with it."""
        own = [session for session in self._sessions.values() if session.kernel is kernel]
        kernel.remember(json.dumps([[getattr(session, name) for name in _KEPT] for session in own]))

    def find(self, identity: Identity, path: str, kind: str) -> Session | None:
        """The caller's session of this path and type; the oldest where a rename has made two."""
        for session in self.of(identity):
            if (session.path, session.type) == (path, kind):
                return session
        return None

    def get(self, identity: Identity, session_id: str) -> Session:
        """The caller's session of that id; raises `HttpError` 404."""
        session = self._sessions.get(session_id)
        if session is None or not identity.owns(session.owner) or not self._lives(session):
            raise HttpError(
                404, f"There is no session {quoted(session_id)}. GET /api/sessions lists those there are."
            )
        return session

    def of(self, identity: Identity) -> list[Session]:
        """The caller's sessions, oldest first."""
        living = [session for session in list(self._sessions.values()) if self._lives(session)]
        return [session for session in living if identity.owns(session.owner)]

    def remove(self, session: Session) -> None:
        """Forget a session; its kernel stays."""
        if self._sessions.pop(session.id, None) is not None:
            self.changed(session.kernel)

    def _lives(self, session: Session) -> bool:
        try:
            self._kernels.get(session.kernel.id)
        except NoSuchKernelError:
            self.remove(session)
            return False
        return True


def _remembered(kernel: Kernel) -> list[Session]:
    """The sessions that were kept with a kernel that was adopted."""
    try:
        kept = json.loads(kernel.memory or "[]")
        sessions = [
            Session(str(key), str(owner), str(path), str(name), str(kind), kernel)
            for key, owner, path, name, kind in kept
        ]
    except (ValueError, TypeError) as error:
        _log.warning("the sessions of kernel %s are lost: %s", kernel.id, error)
        return []
    return sessions
