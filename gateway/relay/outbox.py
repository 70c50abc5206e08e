"""What the relay sends, numbered, and kept until every session that it is for has taken it.

One counter numbers all messages. A message is for one session (a reply) or for all (what the kernel
publishes), and goes on the wire once, when it is made, so that the numbers there have no gaps:
with the route of its session, or with route 0. It is kept as long as a session that it is for has
not acknowledged it, and sent again to a route that takes such a session up.

Two bounds, both in bytes of payload and `COST` for each message:

- `backlog` is what the slowest session that has a route has not acknowledged. The outbox does not bound
  it; who feeds the outbox stops the kernel when it exceeds the window.
- what only sessions without a route want is bounded by `window`: beyond, the oldest messages are
  dropped and counted for those sessions.

No I/O and no clock of its own: frames go to `write`, in order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from ..wire import framing, payloads
from ..wire.framing import BROADCAST, Kind, encode
from ..wire.window import COST

#: Seconds that a session is kept after its route was closed.
SESSION_TTL = 600.0
#: Sessions without a route that are kept; a client that opens ever new ones costs the oldest.
MAX_DETACHED = 256

# Header and sequence number of a MESSAGE, as framing.encode_header makes them, in a fifth of its time.
_MESSAGE = struct.Struct("<IIQ")

_EVERYONE = 0
#: Acknowledged messages at the front of the list before it is cut: cutting moves the rest.
_CUT_AT = 1024


class Session:
    """One client's session. `number` is its identity on the kernel's sockets, from 1."""

    def __init__(self, number: int, name: str, route: int, acknowledged: int, broadcast: int) -> None:
        self.number = number
        self.name = name
        #: The route it has, or had last; `attached` tells which.
        self.route = route
        self.attached = True
        self.detached_at = 0.0
        #: The last sequence number that it has taken.
        self.acknowledged = acknowledged
        #: Messages for it that were dropped since its last OPENED: how many of those that no gateway can
        #: have, and the numbers of those that one may have.
        self.lost = 0
        self.maybe_lost: list[int] = []
        #: The header of its last request: the parent of what the relay itself tells it.
        self.last_request = b"{}"
        # Its backlog: bytes sent to everyone, less those it has taken, and bytes for it alone.
        self.taken = broadcast
        self.own = 0


class Outbox:
    """Sequence numbers, sessions, retention and replay; the module's docstring is the theory."""

    def __init__(self, write: Callable[[bytes], None], window: int) -> None:
        self.window = window
        #: The last sequence number given.
        self.sent = 0
        self._write = write
        self._sessions: dict[int, Session] = {}
        self._names: dict[str, Session] = {}
        self._routes: dict[int, Session] = {}
        self._next_number = 1
        # (session number or _EVERYONE, payload) by sequence number; None where nobody wants it any more.
        self._kept: list[tuple[int, bytes] | None] = []
        self._head = 0
        self._first = 1  # the sequence number of _kept[0]
        self._kept_bytes = 0
        self._broadcast = 0
        #: Up to here everything was written to a link that has ended, and may have arrived.
        self._maybe_arrived = 0

    # -- messages -----------------------------------------------------------------------------------

    def publish(self, payload: bytes) -> None:
        """Send to every open route, and keep for every session."""
        self.sent = sequence = self.sent + 1
        self._write_message(BROADCAST, sequence, payload)
        self._broadcast += len(payload) + COST
        self._keep(_EVERYONE if self._sessions else None, payload)

    def send(self, session: Session, payload: bytes) -> None:
        """Send to one session. If it has no route, the message still takes its place on the wire."""
        self.sent = sequence = self.sent + 1
        self._write_message(session.route, sequence, payload)
        session.own += len(payload) + COST
        self._keep(session.number, payload)

    def _write_message(self, route: int, sequence: int, payload: bytes) -> None:
        length = len(payload) + framing.SEQUENCE.size
        self._write(_MESSAGE.pack(length, Kind.MESSAGE | route << 8, sequence))
        self._write(payload)

    def _keep(self, target: int | None, payload: bytes) -> None:
        if target is None:
            # Nobody is there: only the place in the numbering remains.
            self._kept.append(None)
            self._release()
            return
        self._kept.append((target, payload))
        self._kept_bytes += len(payload) + COST
        if self._kept_bytes > self.window:
            self._drop_for_detached()

    # -- sessions -----------------------------------------------------------------------------------

    def session(self, number: int) -> Session | None:
        """The session of that number, if it is still kept."""
        return self._sessions.get(number)

    def session_of(self, route: int) -> Session | None:
        """The session that an open route belongs to."""
        return self._routes.get(route)

    def routes(self) -> int:
        """How many routes are open."""
        return len(self._routes)

    def sessions(self) -> list[Session]:
        """All sessions that are kept."""
        return list(self._sessions.values())

    def open(self, route: int, name: str, after: int = 0) -> tuple[Session, int]:
        """Tie `route` to the session of that name: sends OPENED and what the session has not taken.

        The gateway has everything up to `after` for the session by an earlier link: that is not sent.
        Returns the session and how many messages it has lost since it last had a route.
        """
        session = self._names.get(name)
        if session is None:
            session = Session(self._next_number, name, route, self.sent, self._broadcast)
            self._next_number += 1
            self._sessions[session.number] = self._names[name] = session
        session.route = route
        session.attached = True
        self._routes[route] = session
        lost = session.lost + sum(sequence > after for sequence in session.maybe_lost)
        session.lost, session.maybe_lost = 0, []
        opened = {"sequence": session.acknowledged, "lost": lost}
        self._write(encode(Kind.OPENED, route, payloads.dump(opened)))
        for sequence, _, payload in self._wanted(session, self.sent):
            if sequence > after:
                self._write_message(route, sequence, payload)
        return session, lost

    def close(self, route: int, now: float) -> bool:
        """Give the route up; its session is kept for a while. False if the route was not open."""
        session = self._routes.pop(route, None)
        if session is None:
            return False
        if session.route == route and session.attached:
            session.attached = False
            session.detached_at = now
            detached = [other for other in self._sessions.values() if not other.attached]
            if len(detached) > MAX_DETACHED:
                self._forget(min(detached, key=lambda other: other.detached_at))
            self._drop_for_detached()
        return True

    def close_all(self, now: float) -> None:
        """The link has ended, and with it every route."""
        self._maybe_arrived = self.sent
        for route in list(self._routes):
            self.close(route, now)
        for session in self._sessions.values():
            # The next link may give the number to anybody: a reply that comes before this session has a route
            # there must not go to it, but only take its place on the wire.
            session.route = framing.MAX_ROUTE

    def acknowledge(self, route: int, sequence: int) -> None:
        """The client behind `route` has taken everything up to `sequence`.

        What comes from a route whose session another one has taken over says nothing any more.
        """
        session = self._routes.get(route)
        if session is None or session.route != route or sequence <= session.acknowledged:
            return
        for number, target, payload in self._wanted(session, sequence):
            self._settle(session, number, target, payload)
        session.acknowledged = sequence
        self._release()

    def expire(self, now: float) -> None:
        """Forget the sessions that have been without a route for `SESSION_TTL`."""
        for session in self.sessions():
            if not session.attached and now - session.detached_at >= SESSION_TTL:
                self._forget(session)

    def backlog(self) -> int:
        """Bytes that the slowest session that has a route has not acknowledged."""
        return max(
            (self._broadcast - s.taken + s.own for s in self._sessions.values() if s.attached), default=0
        )

    def kept_bytes(self) -> int:
        """Bytes that are kept for anyone, with `COST` for each message."""
        return self._kept_bytes

    # -- retention ----------------------------------------------------------------------------------

    def _wanted(self, session: Session, last: int) -> Iterator[tuple[int, int, bytes]]:
        """(sequence, target, payload) of what is kept for `session` and not acknowledged, up to `last`."""
        first = max(session.acknowledged + 1, self._first + self._head)
        for index in range(first - self._first, last - self._first + 1):
            entry = self._kept[index]
            if entry is not None and entry[0] in (_EVERYONE, session.number):
                yield index + self._first, entry[0], entry[1]

    def _settle(self, session: Session, sequence: int, target: int, payload: bytes) -> None:
        """Account for one message that `session` no longer wants."""
        if target == _EVERYONE:
            session.taken += len(payload) + COST
        else:
            session.own -= len(payload) + COST
            self._kept[sequence - self._first] = None
            self._kept_bytes -= len(payload) + COST

    def _release(self) -> None:
        """Let go of the messages at the front that nobody wants any more."""
        taken_by_all = min((s.acknowledged for s in self._sessions.values()), default=self.sent)
        kept, head = self._kept, self._head
        while head < len(kept):
            entry = kept[head]
            if entry is not None:
                if entry[0] != _EVERYONE or head + self._first > taken_by_all:
                    break
                kept[head] = None
                self._kept_bytes -= len(entry[1]) + COST
            head += 1
        self._head = head
        if head >= _CUT_AT and head * 2 >= len(kept):
            del kept[:head]
            self._first += head
            self._head = 0

    def _drop_for_detached(self) -> None:
        """Drop the oldest messages that only sessions without a route want, until the rest is in bounds."""
        attached = [s for s in self._sessions.values() if s.attached]
        detached = [s for s in self._sessions.values() if not s.attached]
        while detached and self._kept_bytes > self.window and self._head < len(self._kept):
            sequence = self._first + self._head
            entry = self._kept[self._head]
            if entry is not None:
                target, payload = entry
                if any(s.acknowledged < sequence and target in (_EVERYONE, s.number) for s in attached):
                    return
                for session in detached:
                    if session.acknowledged < sequence and target in (_EVERYONE, session.number):
                        if sequence <= self._maybe_arrived:
                            session.maybe_lost.append(sequence)
                        else:
                            session.lost += 1
                        self._settle(session, sequence, target, payload)
            for session in detached:
                session.acknowledged = max(session.acknowledged, sequence)
            self._release()

    def _forget(self, session: Session) -> None:
        for sequence, target, payload in list(self._wanted(session, self.sent)):
            self._settle(session, sequence, target, payload)
        del self._sessions[session.number]
        del self._names[session.name]
        self._routes = {route: other for route, other in self._routes.items() if other is not session}
        self._release()
