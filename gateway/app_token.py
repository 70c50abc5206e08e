"""Where the gateway's token comes from: an option, a file, the environment, or chance."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from .app_listen import StartError

#: The environment variable that may hold the token.
VARIABLE = "JUPYTER_GATEWAY_TOKEN"


@dataclasses.dataclass(frozen=True)
class Token:
    """`value` is "" where authentication is switched off; `chosen` tells one given by a person."""

    value: str
    chosen: bool

    def __repr__(self) -> str:
        return f"Token(chosen={self.chosen})"


def find(option: str | None, file: str, environment: Mapping[str, str]) -> Token:
    """The token of the first place that has one: the option, the file, the environment; else a random one.

    The option may be "", which switches authentication off; an empty file or variable is an error, because
    that is what a secret looks like that has not arrived. Raises `StartError`.
    """
    if option is not None:
        return Token(_checked(option, "--token") if option else "", True)
    if file:
        try:
            value = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"The token file {file!r} cannot be read: {error}.") from error
        return Token(_checked(value, f"The token file {file!r}"), True)
    if VARIABLE in environment:
        return Token(_checked(environment[VARIABLE], f"The environment variable {VARIABLE}"), True)
    return Token(secrets.token_hex(24), False)


def _checked(value: str, source: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise StartError(
            f"{source} must hold a token: printable ASCII characters without spaces, at least one."
        )
    return value
