"""What the relay adds to the interpreter's own start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Milliseconds that importing the relay may take beyond the interpreter's own start; what of it may be for
#: other things than zmq, which takes most; and what comes before the launch of the kernel.
BUDGET = 50.0
BUDGET_BESIDE_ZMQ = 15.0
BUDGET_BEFORE_LAUNCH = 6.0
#: What a busy machine adds that the interpreter's own start does not show: caches that others use too.
NOISE = 1.4
#: CPU milliseconds of the interpreter's own start on the machine that the budget was measured on. On a
#: slower or busier one everything takes longer by the same factor.
BARE = 9.0
#: Rounds; the quickest counts, because a machine can only ever add to it.
ROUNDS = 15


def milliseconds(code: str, folder: Path) -> float:
    """CPU time of one run, user's and system's."""
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    pid = os.posix_spawn(sys.executable, argv, {})
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return (usage.ru_utime + usage.ru_stime) * 1000


def test_the_imports_stay_within_their_budget(folder: Path) -> None:
    codes = {
        "bare": "pass",
        "boot": "import gateway.relay.boot",
        "zmq": "import zmq",
        "all": "import gateway.relay.relay",
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(ROUNDS):
        for name, code in codes.items():
            taken[name].append(milliseconds(code, folder))
    least = {name: min(values) for name, values in taken.items()}
    slowness = max(1.0, least["bare"] / BARE)
    print({name: round(value, 1) for name, value in least.items()}, f"slowness {slowness:.2f}")
    margin = slowness * NOISE
    assert least["boot"] - least["bare"] < BUDGET_BEFORE_LAUNCH * margin
    assert least["all"] - least["zmq"] < BUDGET_BESIDE_ZMQ * margin
    assert least["all"] - least["bare"] < BUDGET * margin
