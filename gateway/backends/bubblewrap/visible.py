"""Which paths of the host a sandbox sees, all of them read-only: a pure look at the file system.

- the system's programs and libraries (/usr and what stands beside it);
- a few files of /etc that programs need to find libraries, time zone, fonts and certificates;
- the interpreter of the relay;
- the environment of the kernel's program, as far as `argv` leads to it: the prefix around its `bin`, through
  every symbolic link, and for a virtual environment the prefix it was made from (pyvenv.cfg, PEP 405);
- files that `argv` names, the kernelspec's folder, and the data of its settings.

Each stands at its own path, because environments hold absolute paths. What an environment may hold of the
gateway is kept from sight (`hidden`): `etc/jupyter` (configuration, maybe a token) and every path of
`Rules.hidden`. An environment that is as wide as a home or a top folder would show far more than itself, so
it is refused, and so is a file that `argv` names among the keys and accounts in a home.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import members
from ..base import SpecError
from .hidden import Cover, cover, cover_endpoints, place
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

#: What marks a folder with a dot in a home as an environment: of Python, of conda, of Homebrew.
_MARKS = ("pyvenv.cfg", "conda-meta", "Cellar")

#: Where, below a home, kernels are kept of which `argv` names files; other folders there whose names start
#: with a dot hold keys and accounts.
_KERNELS = (".ipython/kernels", ".julia/dev", ".julia/packages", ".local/lib", ".local/share/jupyter")

#: Longest chain of links that Linux follows (path_resolution(7)).
_MOST_LINKS = 40


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

    Raises `SpecError` where its program is missing, its environment is too wide, or something would be
    shown that nobody may see.
    """
    paths = [*rules.interpreter]
    search_path = [*SYSTEM_PATH]
    if argv:
        program = _find(argv[0], rules.programs)
        search_path.insert(0, os.path.dirname(program))
        paths += _environment(program)
        for part in argv[1:]:
            if os.path.isabs(part) and os.path.exists(part):
                paths.append(_surroundings(part, [*paths, resource_dir]))
    if resource_dir:
        paths.append(_checked(os.path.abspath(resource_dir), resource_dir))
    _check_readable(paths)
    binds, links = _system()
    binds += [Bind(path, path) for path in paths]
    # What stands behind a link is shown at its own path too: absolute paths lead to both.
    binds += [Bind(real, real) for path in paths if (real := os.path.realpath(path)) != path]
    binds += data
    covered = cover(binds, rules.hidden) + cover_endpoints(binds, [resource_dir] if resource_dir else [])
    return Visible(_without_repeats(binds), links, covered, list(dict.fromkeys(search_path)))


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


def _surroundings(path: str, shown: Sequence[str]) -> str:
    """What must be seen with a file that `argv` names: for Node the whole tree of modules it is part of."""
    head, modules, _ = path.partition("/node_modules/")
    if modules:
        return head + "/node_modules"
    folder = os.path.normpath(path if os.path.isdir(path) else os.path.dirname(path))
    if is_system(folder):
        return folder
    if not any(top and members.is_below(folder, top) for top in shown) and (
        _is_private(folder) or _is_private(os.path.realpath(folder))
    ):
        raise SpecError(
            f"{path}, which argv in kernel.json names, would show {folder} to the sandbox, and such folders "
            "of a home hold keys and accounts. Put the file into the kernelspec's folder (argv may say "
            "{resource_dir}), or into one of its own."
        )
    return _checked(folder, path)


def _is_private(path: str) -> bool:
    """Whether a path lies in a folder of a home that starts with a dot and holds no kernels."""
    for home in _homes(path):
        if path.startswith(home + "/."):
            return not any(members.is_below(path, os.path.join(home, kernels)) for kernels in _KERNELS)
    return False


def _homes(path: str) -> list[str]:
    """The homes that a path may lie in: root's, the gateway's, and that of its name below /home."""
    homes = ["/root"]
    with contextlib.suppress(KeyError):
        homes.append(pwd.getpwuid(os.geteuid()).pw_dir)
    if path.startswith("/home/"):
        homes.append("/".join(path.split("/")[:3]))
    return homes


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
    """Whether a folder is as wide as a home, a folder with a dot in one, or a top folder of the system."""
    if path in _BROAD or os.path.dirname(path) == "/home":
        return True
    for home in _homes(path):
        if (home + "/").startswith(path + "/"):
            return True
        if os.path.dirname(path) == home and os.path.basename(path).startswith("."):
            return not os.path.islink(path) and not _is_environment(path)
    return False


def _is_environment(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, mark)) for mark in _MARKS)


def _without_repeats(binds: Iterable[Bind]) -> list[Bind]:
    """Parents first, without what a parent already shows at the same place."""
    kept: list[Bind] = []
    for bind in sorted(set(binds), key=lambda bind: (bind.target.count("/"), bind.target)):
        if not any(place(bind.source, other) == bind.target for other in kept):
            kept.append(bind)
    return kept
