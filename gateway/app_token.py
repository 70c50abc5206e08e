"""The token: it comes from an option, a file, the environment or chance, and is shown with no settings."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from traitlets.config import Config

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
    """The token of the one place that gives it: the option, the file or the environment; else a random one.

    Two places are an error: whichever came first would silently undo the other, and an option "" in a
    configuration file would switch off authentication although a token was given. The option may be ""
    by itself, which does switch it off; an empty file or variable is an error, because that is what a secret
    looks like that has not arrived. Raises `StartError`.
    """
    places = {
        "the setting JupyterGateway.token (--token)": option is not None,
        f"the token file {file!r}": bool(file),
        f"the environment variable {VARIABLE}": VARIABLE in environment,
    }
    given = [place for place, is_given in places.items() if is_given]
    if len(given) > 1:
        raise StartError(f"The token is given more than once: by {' and by '.join(given)}. Leave one.")
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


def without_token(config: Config) -> Config:
    """A copy to be shown, with "(hidden)" in the place of a token; an empty one hides nothing and stays."""
    shown = copy.deepcopy(config)
    for section in shown.values():
        if isinstance(section, Config) and section.get("token"):
            section["token"] = "(hidden)"  # noqa: S105
    return shown


def hide_token(record: logging.LogRecord) -> bool:
    """A log filter: traitlets logs the whole configuration where something in it is wrong."""
    if isinstance(record.args, Config):  # logging takes a single mapping out of its tuple
        record.args = without_token(record.args)
    return True


def _checked(value: str, source: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise StartError(
            f"{source} must hold a token: printable ASCII characters without spaces, at least one."
        )
    return value
