"""Reads the seccomp profile of containers-common, as a runtime does for a container without capabilities.

The format is that of containers-seccomp.json(5); its argument comparisons are libseccomp's
(seccomp_rule_add(3)), on unsigned 64-bit values.
"""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATH = Path("/usr/share/containers/seccomp.json")

#: `uname -m` to the profile's name of the architecture.
ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "SCMP_CMP_EQ": operator.eq,
    "SCMP_CMP_NE": operator.ne,
    "SCMP_CMP_LT": operator.lt,
    "SCMP_CMP_LE": operator.le,
    "SCMP_CMP_GT": operator.gt,
    "SCMP_CMP_GE": operator.ge,
}

#: Of an argument without a value of its own in the profile.
_OTHER_VALUES = (0, 1, 2, 3, 16, 2**31, 2**32 - 1)


class Profile:
    """What the shipped profile allows on one architecture to a container without capabilities."""

    def __init__(self, machine: str) -> None:
        profile = json.loads(PATH.read_text())
        if profile["defaultAction"] != "SCMP_ACT_ERRNO":
            raise AssertionError(f"{PATH} is no allow-list")
        self._rules: dict[str, list[list[dict[str, Any]]]] = {}
        for rule in profile["syscalls"]:
            if rule["action"] == "SCMP_ACT_ALLOW" and _applies(rule, ARCHES[machine]):
                for name in rule["names"]:
                    self._rules.setdefault(name, []).append(rule.get("args") or [])

    def may_allow(self, name: str) -> bool:
        """Whether the call is allowed with some arguments."""
        return name in self._rules

    def allows(self, name: str, arguments: tuple[int, ...]) -> bool:
        return any(
            all(_matches(condition, arguments) for condition in conditions)
            for conditions in self._rules.get(name, ())
        )

    def judged_by_arguments(self) -> list[str]:
        return [name for name, rules in self._rules.items() if all(rules)]

    def denied_arguments(self, name: str) -> Iterator[tuple[int, ...]]:
        """Argument lists that the profile denies to a call that it allows otherwise: the values of its
        rules, their neighbours and some others, in every combination."""
        values: list[set[int]] = [set() for _ in range(6)]
        for conditions in self._rules[name]:
            for condition in conditions:
                value = condition["value"]
                values[condition["index"]] |= {value, value + 1, max(value - 1, 0), *_OTHER_VALUES}
        for arguments in itertools.product(*(sorted(some) or [0] for some in values)):
            if not self.allows(name, arguments):
                yield arguments


def _applies(rule: dict[str, Any], arch: str) -> bool:
    includes = rule.get("includes") or {}
    excludes = rule.get("excludes") or {}
    arches = includes.get("arches")
    return (
        not includes.get("caps") and (not arches or arch in arches) and arch not in excludes.get("arches", ())
    )


def _matches(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    value: int = condition["value"]
    argument = arguments[condition["index"]]
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return bool(argument & value == condition.get("valueTwo", 0))
    return _COMPARISONS[condition["op"]](argument, value)
