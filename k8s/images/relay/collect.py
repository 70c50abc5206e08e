"""Collects the relay into one folder that runs in any image: with an interpreter and libraries of its own.

    python collect.py SOURCES TARGET

`python` has pyzmq; SOURCES holds `gateway`; TARGET is made, and gets:

| path | |
|---|---|
| `bin/python3` | the interpreter that this runs on |
| `bin/ld.so`, `lib/*.so*` | the loader, and every library that the interpreter and its extensions ask for |
| `lib/python3.11/` | of the standard library what the relay imports, compiled, without the sources |
| `zmq/` | the same of pyzmq |
| `gateway/` | the relay, compiled, with its sources |
| `closed/` | see `gateway/relay/install.py` |

An interpreter finds its standard library from its own path: it looks for `lib/python3.11/os.pyc` in each
folder above `bin/`, and for `lib-dynload` (Modules/getpath.py). So it needs no setting, and `-I` may ignore
them all. What the loader starts takes the path that it was given for its own.
"""

from __future__ import annotations

import ast
import importlib.util
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: The gateway's side, of which nothing is used inside a sandbox.
_LEFT_OUT = "gateway.relay.command"

#: What is imported only when it comes to it, by the standard library itself: to tell of an error, and for
#: names and addresses of hosts (`socket.getaddrinfo`).
_LATER = ("traceback", "linecache", "tokenize", "encodings.idna", "encodings.latin_1", "encodings.ascii")

#: Imports what it is told and prints what is loaded then: names and files. OpenSSL's digests weigh as much as
#: all other libraries together; without them Python takes its own.
_TRACE = """
import sys
sys.path[:0] = sys.argv[1].split(":")
sys.modules["_hashlib"] = None
for name in sys.argv[2:]:
    __import__(name)
for name, module in sys.modules.items():
    if file := getattr(module, "__file__", None):
        print(name, file, sep="\\t")
"""

#: What ldd prints: a library's name and where it is; the loader's place alone.
_LIBRARY = re.compile(r"^\s*(\S+) => (.+?)(?: \(0x\w+\))?$", re.MULTILINE)
_LOADER = re.compile(r"^\s*(/\S+) \(0x", re.MULTILINE)


def relay_modules(sources: Path) -> dict[str, Path]:
    """Every module of the relay and of the wire, by name."""
    files = [
        sources / "gateway/__init__.py",
        *(sources / "gateway/relay").glob("*.py"),
        *(sources / "gateway/wire").glob("*.py"),
    ]
    dotted = {".".join(file.relative_to(sources).with_suffix("").parts): file for file in sorted(files)}
    named = {name.removesuffix(".__init__"): file for name, file in dotted.items()}
    return {name: file for name, file in named.items() if name != _LEFT_OUT}


def imported_by(source: str) -> Iterator[str]:
    """The modules that this source imports by their whole names, wherever in it that stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def wanted(sources: Path) -> list[str]:
    """What must be importable: the relay's modules, and what they import at their start or later."""
    modules = relay_modules(sources)
    names = {name for name in modules if not name.endswith(".__main__")}
    names |= {name for file in modules.values() for name in imported_by(file.read_text())}
    return sorted(names | {*_LATER})


def trace(program: list[str], path: list[Path], names: list[str]) -> dict[str, Path]:
    """Module -> file, of all that is loaded by an interpreter that has imported these."""
    argv = [*program, "-I", "-S", "-c", _TRACE, ":".join(map(str, path)), *names]
    printed = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    pairs = (line.split("\t") for line in printed.splitlines())
    return {name: Path(file) for name, file in pairs}


def put_module(file: Path, target: Path) -> None:
    """Put a module there: an extension as it is, a source compiled in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".py":
        compile_to(file, target.with_suffix(".pyc"))
    else:
        shutil.copyfile(file, target)


def compile_to(file: Path, target: Path) -> None:
    """Compile, not to be compared with a source at each start."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    target.parent.mkdir(parents=True, exist_ok=True)
    py_compile.compile(str(file), str(target), file.name, doraise=True, invalidation_mode=mode)


def put_libraries(programs: list[Path], target: Path) -> None:
    """Put what these are linked with into `lib`, and their loader into `bin`."""
    for program in programs:
        printed = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
        for name, place in _LIBRARY.findall(printed):
            # `copyfile` raises where ldd says "not found".
            shutil.copyfile(place, target / "lib" / name)
        for place in _LOADER.findall(printed):
            shutil.copyfile(place, target / "bin" / "ld.so")


def set_modes(target: Path) -> None:
    """Everybody may read everything, run what is in `bin`, and write nothing."""
    for path in (target, *target.rglob("*")):
        path.chmod(0o555 if path.is_dir() or path.parent.name == "bin" else 0o444)
    (target / "closed").chmod(0o700)


def collect(sources: Path, target: Path) -> None:
    """Make `target`. Raises where what it holds does not run, or takes anything from elsewhere."""
    for name in ("bin", "lib", "closed"):
        (target / name).mkdir(parents=True)
    (target / "closed" / "termination-log").touch()
    zmq = importlib.util.find_spec("zmq")
    assert zmq is not None
    assert zmq.origin is not None
    site_packages = Path(zmq.origin).parents[1]
    standard = Path(sysconfig.get_path("stdlib"))
    library = Path("lib", "python{}.{}".format(*sys.version_info))
    interpreter = Path(sys.executable).resolve()

    # The interpreter's other half, without which it complains at each start.
    (target / library / "lib-dynload").mkdir(parents=True)
    shutil.copyfile(interpreter, target / "bin" / "python3")
    linked = [interpreter]
    names = wanted(sources)
    for file in trace([str(interpreter)], [sources, site_packages], names).values():
        if file.is_relative_to(site_packages):
            put_module(file, target / file.relative_to(site_packages))
        elif file.is_relative_to(standard):
            put_module(file, target / library / file.relative_to(standard))
        if file.suffix == ".so":
            linked.append(file)
    put_libraries(linked, target)
    for file in relay_modules(sources).values():
        copy = target / file.relative_to(sources)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        compile_to(file, Path(importlib.util.cache_from_source(str(copy))))
    set_modes(target)

    program = [str(target / "bin/ld.so"), "--library-path", str(target / "lib"), str(target / "bin/python3")]
    foreign = [file for file in trace(program, [target], names).values() if not file.is_relative_to(target)]
    if foreign:
        sys.exit(f"The relay would take these from elsewhere: {foreign}")


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
