"""The gateway's commands by number: each is done once, and its answer repeated to who did not get it."""

from __future__ import annotations

#: Commands that are remembered.
_MOST = 256


class Commands:
    """`last` is the highest number so far."""

    def __init__(self) -> None:
        self.last = 0
        # What was answered, "" being well; None while the answer is to come.
        self._answers: dict[int, str | None] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._answers

    def begin(self, number: int) -> None:
        """Remember a new command, and forget the oldest beyond the bound."""
        self.last = max(self.last, number)
        self._answers[number] = None
        if len(self._answers) > _MOST:
            del self._answers[next(iter(self._answers))]

    def end(self, number: int, error: str) -> None:
        """It is answered."""
        if number in self._answers:
            self._answers[number] = error

    def answer(self, number: int) -> str | None:
        """What was answered to it; None if nothing was yet."""
        return self._answers[number]
