"""Options that are known, or an error: what traitlets lets pass with a warning or in silence is refused here.

A mistyped option of a gateway is a limit that does not limit or a certificate that is not asked for. So an
unknown option, class or trait ends the start with the nearest known name. The one exception is the file
that all Jupyter programs share (`jupyter_config.py`, `.json`): there, sections of other programs are
no business of this one.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jupyter_core.application import JupyterApp
from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.application import catch_config_error
from traitlets.config.loader import ArgumentError, JSONFileConfigLoader, PyFileConfigLoader

#: The file name, without suffix, that every program built on jupyter_core reads.
_SHARED_FILE = "jupyter_config"


class StrictApp(JupyterApp):
    """A JupyterApp that refuses what it does not know; classes are those in `classes` and their parents."""

    raise_config_file_errors = True

    #: What the words beside options are, for a command that takes some; "" where there are to be none.
    takes = ""

    @catch_config_error
    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """As in traitlets; unknown options are an `ArgumentError`, which ends the program with its text."""
        given = [] if argv is None else argv
        if not (given and given[0] in self.subcommands):
            self._check_arguments(given[: given.index("--")] if "--" in given else given)
        super().parse_command_line(given)
        if self.extra_args and not self.takes:
            self._refuse_late_command(self.extra_args)
            known = [*self.subcommands, *self._options()]
            raise ArgumentError(
                f"There is no command {self.extra_args[0]!r}.{_nearest(self.extra_args[0], known)}"
            )

    @catch_config_error
    def load_config_file(self, suppress_errors: bool = False) -> None:  # type: ignore[override]  # as its base
        """As in jupyter_core; a file that was named and is not there, and unknown names, are errors."""
        if self.config_file and not _exists(self.config_file):
            raise TraitError(f"There is no configuration file {self.config_file!r}.")
        super().load_config_file(suppress_errors)
        foreign = self._check_sections(self.config)
        if foreign:
            shared: set[str] = set()
            for name in self.loaded_config_files:
                if Path(name).stem == _SHARED_FILE:
                    shared |= set(_read(Path(name)))
            for name in foreign:
                if name not in shared:
                    raise TraitError(
                        f"There is no class {name!r} to configure.{_nearest(name, self._known())}"
                    )

    def _check_arguments(self, argv: Sequence[str]) -> None:
        options = self._options()
        for argument in argv:
            if not argument.startswith("-") or argument == "-":
                continue
            name = argument.lstrip("-").partition("=")[0]
            if "." in name:
                section, _, trait = name.rpartition(".")
                self._check_trait(section, trait)
            elif name not in options:
                self._refuse_late_command(argv)  # the option may be the command's
                raise ArgumentError(f"There is no option --{name}.{_nearest(name, options, '--')}")

    def _refuse_late_command(self, words: Sequence[str]) -> None:
        """traitlets looks for a command in the first place only."""
        for word in words:
            if word in self.subcommands:
                raise ArgumentError(f"A command comes before all options: {self.name} {word} ...")

    def _check_sections(self, config: Config) -> list[str]:
        """Raises `TraitError` for an unknown trait of a known class; the sections of unknown classes."""
        known = self._known()
        foreign = []
        for section, values in config.items():
            if section not in known:
                foreign.append(section)
                continue
            for trait in values:
                self._check_trait(section, trait)
        return foreign

    def _check_trait(self, section: str, trait: str) -> None:
        known = self._known()
        if section not in known:
            raise ArgumentError(f"There is no class {section!r} to configure.{_nearest(section, known)}")
        if trait not in known[section]:
            raise ArgumentError(
                f"{section} has no trait {trait!r}.{_nearest(trait, known[section], section + '.')}"
            )

    def _known(self) -> Mapping[str, Iterable[str]]:
        """Class name -> the names of its traits, of every class that can be configured here."""
        return _traits((*self.classes, type(self)))

    def _options(self) -> set[str]:
        """Every short name: aliases, flags, and what traitlets answers by itself."""
        names = {"h", "help", "help-all", "version", "V"}
        for keys in (*self.aliases, *self.flags):
            names |= {keys} if isinstance(keys, str) else set(keys)
        return names


@functools.cache
def _traits(classes: tuple[type[Configurable], ...]) -> Mapping[str, Iterable[str]]:
    return {
        parent.__name__: frozenset(parent.class_traits(config=True))
        for cls in classes
        for parent in cls.mro()
        if issubclass(parent, Configurable)
    }


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence that suggests the nearest name, or the way to all of them; it starts with a space."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if not close:
        return " --help-all lists what there is."
    return f" Did you mean {prefix}{by_lower[close[0]]}?"


def _exists(config_file: str) -> bool:
    """Whether traitlets would find it: the name as it is, or with one of the suffixes it tries."""
    path = Path(config_file)
    return any(path.with_suffix(suffix).is_file() for suffix in (".py", ".json"))


def _read(path: Path) -> Config:
    loader = JSONFileConfigLoader if path.suffix == ".json" else PyFileConfigLoader
    config: Config = loader(path.name, path=str(path.parent)).load_config()
    return config
