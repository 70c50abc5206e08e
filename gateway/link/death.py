"""The kernel's end, as the relay tells of it: passed on once, and behind all that has come of it.

A new stream begins with it, and what the relay has kept for a session comes only after its OPENED: the end of
the cell that ran, too, which a page does not take once it has heard of the kernel's. And every stream brings
it, until a command has made another kernel of it.
"""

from __future__ import annotations

from collections.abc import Callable


class Death:
    """`tell` is given the reason, and the command that asked for it, if one did."""

    def __init__(self, tell: Callable[[str, str | None], None]) -> None:
        self._tell = tell
        self._waiting: tuple[str, str | None] | None = None
        #: And the relay is not known to have had a command since.
        self._is_told = False

    def heard(self, reason: str, asked: str | None, *, behind_all: bool) -> bool:
        """The relay tells of it, `behind_all` that came of it or not: whether to ask when that has come."""
        if self._is_told:
            return False  # an earlier stream has brought it, and the restart that came of it has not arrived
        waited = self._waiting is not None
        self._waiting = (reason, asked)
        if behind_all:
            self.tell()
        return not behind_all and not waited

    def tell(self) -> None:
        """All that came of it is here."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._is_told = True
            self._tell(*waiting)

    def begins_anew(self) -> None:
        """A new stream tells of it again."""
        self._waiting = None

    def has_had_a_command(self) -> None:
        """The relay has: the next end is another kernel's."""
        self._is_told = False
