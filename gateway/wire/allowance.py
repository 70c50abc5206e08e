"""How much text LOG frames may carry: the relay keeps to it, and the gateway holds a hostile one to it."""

from __future__ import annotations

#: Characters that may be told at once, and characters a second after that.
BURST = 64 * 1024
RATE = 16 * 1024


class Allowance:
    """Of what may be told: `BURST` characters at once, `RATE` a second in the long run. `now`: in seconds."""

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._then = now
        self._dropped = 0

    def limit(self, lines: list[str], now: float) -> str:
        """Those of the lines that may be told now, as text; the next that may are told how many were not."""
        self._left = min(float(BURST), self._left + (now - self._then) * RATE)
        self._then = now
        told: list[str] = []
        for line in lines:
            if self._left < len(line):
                self._dropped += 1
                continue
            if self._dropped:
                told.append(f"[{self._dropped} lines were dropped]")
                self._dropped = 0
            self._left -= len(line) + 1
            told.append(line)
        return "".join(line + "\n" for line in told)
