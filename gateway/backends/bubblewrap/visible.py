"""Which paths of the host a sandbox sees, all of them read-only: a pure look at the file system.

- the system's programs and libraries (/usr and what stands beside it);
- a few files of /etc that programs need to find libraries, time zone, fonts and certificates;
- the interpreter of the relay;
- the environment of the kernel's program, as far as `argv` leads to it: the prefix around its `bin`, through
  every symbolic link, and for a virtual environment the prefix it was made from (pyvenv.cfg, PEP 405);
- files that `argv` names, the kernelspec's folder, and the data of its settings.

Each stands at its own path, because environments hold absolute paths. What an environment may hold of the
gateway is covered up: `etc/jupyter` (configuration, maybe a token) and every path in `hidden`. An environment
that is as wide as a home or a top folder would show far more than itself, so it is refused.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base import SpecError
from .settings import Bind

#: Where programs are looked up, inside and outside.
SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")

#: Beside /usr: links into it, or folders of their own on systems that keep them apart.
_BESIDE_USR = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

#: Where programs find libraries, alternatives, fonts, certificates and their own configuration, as patterns
#: below /etc; none holds a secret or names this host. Each costs a start 0.3 ms, so this list is short.
_ETC = (
    "R",
    "alternatives",
    "fonts",
    "java-*",
    "ld.so.cache",
    "localtime",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "ssl/certs",
    "ssl/openssl.cnf",
)

#: Too wide to be an environment, and so is each home.
_BROAD = frozenset(
    ["/"]
    + [f"/{name}" for name in ("boot", "dev", "etc", "home", "lib", "media", "mnt", "nix", "opt", "proc")]
    + [f"/{name}" for name in ("root", "run", "snap", "srv", "sys", "tmp", "var", "var/lib", "var/tmp")]
)

#: Longest chain of links that Linux follows (path_resolution(7)).
_MOST_LINKS = 40


class Cover(NamedTuple):
    """A path, as seen inside, that is covered up: by an empty folder or an empty file."""

    target: str
    is_folder: bool


class Visible(NamedTuple):
    """What a sandbox sees of the host."""

    #: Parents before their children, so that mounting them in this order hides none.
    binds: Sequence[Bind]
    #: Symbolic links of the system: (target of the link, its path).
    links: Sequence[tuple[str, str]]
    covered: Sequence[Cover]
    #: PATH of the kernel.
    search_path: Sequence[str]


class Rules(NamedTuple):
    """What does not depend on the kernelspec."""

    #: Prefixes of the relay's interpreter.
    interpreter: Sequence[str]
    #: Where bare program names are looked up first: the gateway's own environment.
    programs: str
    #: Paths that no sandbox may see, such as the gateway's configuration.
    hidden: Sequence[str]


def look(
    rules: Rules, argv: Sequence[str] = (), resource_dir: str = "", data: Sequence[Bind] = ()
) -> Visible:
    """What the kernel of that `argv` and `resource_dir` needs to see.

    Raises `SpecError` where its program is missing or its environment is too wide.
    """
    paths = [*rules.interpreter]
    search_path = [*SYSTEM_PATH]
    if argv:
        program = _find(argv[0], rules.programs)
        search_path.insert(0, os.path.dirname(program))
        paths += _environment(program)
        paths += [_surroundings(part) for part in argv[1:] if os.path.isabs(part) and os.path.exists(part)]
    if resource_dir:
        paths.append(_checked(os.path.abspath(resource_dir), resource_dir))
    _check_readable(paths)
    binds, links = _system()
    binds += [Bind(path, path) for path in paths]
    # What stands behind a link is shown at its own path too: absolute paths lead to both.
    binds += [Bind(real, real) for path in paths if (real := os.path.realpath(path)) != path]
    binds = _without_repeats([*binds, *data])
    covered = _covered(binds, [*_configuration(binds), *rules.hidden])
    return Visible(binds, links, covered, list(dict.fromkeys(search_path)))


def prefixes(program: str) -> list[str]:
    """The prefixes that a program needs, such as the relay's interpreter. Raises `SpecError`."""
    return _environment(program)


def _system() -> tuple[list[Bind], list[tuple[str, str]]]:
    binds = [Bind("/usr", "/usr")]
    links = []
    for path in _BESIDE_USR:
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            binds.append(Bind(path, path))
    for item in (item for pattern in _ETC for item in Path("/etc").glob(pattern)):
        if item.is_symlink():
            links.append((os.readlink(item), str(item)))
        else:
            binds.append(Bind(str(item), str(item)))
    return binds, links


def is_system(path: str) -> bool:
    """Whether a path is of the system's own programs, which everyone may reach."""
    return any(path == top or path.startswith(top + "/") for top in ("/usr", *_BESIDE_USR))


def _find(name: str, programs: str) -> str:
    """The absolute path of a program, its last links unresolved."""
    if os.path.isabs(name):
        candidates = [name]
    elif "/" in name:
        raise SpecError(f"argv[0] of the kernelspec, {name!r}, must be an absolute path or a bare name.")
    else:
        candidates = [os.path.join(folder, name) for folder in (programs, *SYSTEM_PATH)]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.normpath(candidate)
    looked = "" if os.path.isabs(name) else f" in {', '.join((programs, *SYSTEM_PATH))}"
    raise SpecError(
        f"The kernel's program {name!r} does not exist{looked} or is not executable. Install it, or give "
        "its absolute path as argv[0] in kernel.json."
    )


def _environment(program: str) -> list[str]:
    """The folders around a program, around each link that leads to it, and around its base interpreter."""
    found: list[str] = []
    for hop in _hops(program):
        if is_system(hop):
            continue
        prefix = _prefix(hop)
        if prefix not in found:
            found.append(_checked(prefix, program))
            home = _home_of_venv(prefix)
            if home:
                found += _environment(os.path.join(home, os.path.basename(hop)))
    return list(dict.fromkeys(found))


def _hops(path: str) -> Iterator[str]:
    for _ in range(_MOST_LINKS):
        yield path
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))


def _prefix(program: str) -> str:
    folder = os.path.dirname(program)
    return os.path.dirname(folder) if os.path.basename(folder) == "bin" else folder


def _home_of_venv(prefix: str) -> str | None:
    try:
        text = Path(prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() == "home":
            return os.path.normpath(value.strip())
    return None


def _surroundings(path: str) -> str:
    """What must be seen with a file that `argv` names: for Node the whole tree of modules it is part of."""
    head, modules, _ = path.partition("/node_modules/")
    if modules:
        return head + "/node_modules"
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    return folder if is_system(folder) else _checked(os.path.normpath(folder), path)


def _checked(path: str, wanted: str) -> str:
    if is_broad(path) or is_broad(os.path.realpath(path)):
        raise SpecError(
            f"{wanted} would show all of {path} to the sandbox, which is far more than an environment. Put "
            "the kernel into an environment or a folder of its own."
        )
    return path


def _check_readable(paths: Iterable[str]) -> None:
    """A sandbox of a gateway that is root runs as a user of its own, to whom all must be open."""
    if os.geteuid() != 0:
        return
    for path in paths:
        wanted = stat.S_IROTH | (stat.S_IXOTH if os.path.isdir(path) else 0)
        if os.path.exists(path) and os.stat(path).st_mode & wanted != wanted:
            raise SpecError(
                f"{path} may not be read by other users, and so not by a sandbox, which runs as one. "
                f"Type: chmod -R o+rX {path}"
            )


def is_broad(path: str) -> bool:
    """Whether a folder is as wide as a home, a user's local tree or a top folder of the system."""
    if path in _BROAD or os.path.dirname(path) == "/home":
        return True
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return False
    return path == os.path.join(home, ".local") or (home + "/").startswith(path + "/")


def _without_repeats(binds: Iterable[Bind]) -> list[Bind]:
    """Parents first, without what a parent already shows at the same place."""
    kept: list[Bind] = []
    for bind in sorted(set(binds), key=lambda bind: (bind.target.count("/"), bind.target)):
        if not any(_place(bind.source, other) == bind.target for other in kept):
            kept.append(bind)
    return kept


def _place(path: str, bind: Bind) -> str | None:
    """Where a bind shows a path of the host, or None."""
    if path == bind.source:
        return bind.target
    if path.startswith(bind.source.rstrip("/") + "/"):
        return bind.target.rstrip("/") + path[len(bind.source.rstrip("/")) :]
    return None


def _configuration(binds: Iterable[Bind]) -> list[str]:
    """Where environments keep configuration of Jupyter, and with it maybe the gateway's."""
    prefixes = [bind.source for bind in binds if os.path.isdir(bind.source)] + ["/usr/local"]
    return [path for prefix in prefixes if os.path.isdir(path := os.path.join(prefix, "etc/jupyter"))]


def _covered(binds: Sequence[Bind], hidden: Iterable[str]) -> list[Cover]:
    # Compared by what stands behind links. A link within what is shown leads to the covered place.
    resolved = [Bind(os.path.realpath(bind.source), bind.target) for bind in binds]
    covers = set()
    for path in map(os.path.realpath, hidden):
        if os.path.exists(path):
            places = [place for bind in resolved if (place := _place(path, bind)) is not None]
            covers |= {Cover(place, os.path.isdir(path)) for place in places}
    return sorted(covers)
