"""What the relay adds to the interpreter's own start, in CPU time: hardly more than pyzmq by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: How many times what pyzmq takes, which it cannot do without, importing the relay may take beyond the
#: interpreter's own start. In milliseconds this was 45 on one machine and 56 on another of the same kind.
BUDGET = 1.15
#: Milliseconds of what comes before the launch of the kernel.
BUDGET_BEFORE_LAUNCH = 6.0
#: Rounds until the budget must have been kept. A busy machine can only ever add to what a run takes (caches
#: that others use too), so the quickest of each counts, and the first round that suffices is the last.
ROUNDS = 60


def milliseconds(code: str, folder: Path) -> float:
    """CPU time of one run, user's and system's."""
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    pid = os.posix_spawn(sys.executable, argv, {})
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return (usage.ru_utime + usage.ru_stime) * 1000


def test_the_imports_stay_within_their_budget(folder: Path) -> None:
    codes = {"bare": "pass", "boot": "import gateway.relay.boot", "all": "import gateway.relay.relay"}
    codes["zmq"] = "import zmq"
    least = dict.fromkeys(codes, float("inf"))
    for number in range(ROUNDS):
        for name, code in codes.items():
            least[name] = min(least[name], milliseconds(code, folder))
        beyond = {name: least[name] - least["bare"] for name in ("boot", "zmq", "all")}
        # Not after one round: a bare start that was held up makes the others look quick.
        if number >= 5 and beyond["boot"] < BUDGET_BEFORE_LAUNCH and beyond["all"] < BUDGET * beyond["zmq"]:
            return
    raise AssertionError(f"milliseconds of CPU beyond the interpreter's start: {beyond}")
