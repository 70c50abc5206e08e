"""What the configuration of every backend is made of."""

from __future__ import annotations

import abc
from typing import Any

from traitlets import TraitError, TraitType
from traitlets.traitlets import MetaHasTraits

from . import members
from .sizes import parse_size


class Size(TraitType[int, "int | str"]):
    """Bytes: a number, or a text such as `512MiB`."""

    info_text = "a number of bytes or a text such as '512MiB' (KiB, MiB, GiB)"

    def validate(self, obj: Any, value: object) -> int:
        try:
            return parse_size(value)
        except ValueError:
            self.error(obj, value)

    def from_string(self, s: str) -> int:
        try:
            return parse_size(s)
        except ValueError as error:
            raise TraitError(f"{self.name} {error}, not {s!r}") from None


class BackendMeta(abc.ABCMeta, MetaHasTraits):
    """A configurable backend has two bases, each with a metaclass; this is theirs together."""


def check_limit(backend: object, proposal: Any) -> Any:
    """The validator of a limit's trait: raises `TraitError` for one with which no kernel starts."""
    name = proposal["trait"].name
    try:
        members.check_least(name, proposal["value"])
    except ValueError as error:
        raise TraitError(f"{type(backend).__name__}.{name} {error}, not {proposal['value']}") from None
    return proposal["value"]
