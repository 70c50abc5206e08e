"""Who may import whom: the arrows of the design as one table, read from the sources.

    app -> web -> kernels -> {backends, link} -> transport -> wire          relay -> wire

A part may import what lies to its right, and nothing to its left. errors, auth and observability are
leaves: they import no part of the gateway but what the table gives them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"

#: Part -> the parts, or single modules of one, that it may import. A part is a module or package directly
#: under gateway/.
ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"app"},
    "app": {
        "web",
        "kernels",
        "backends",
        "link",
        "transport",
        "wire",
        "errors",
        "auth",
        "observability",
    },
    "web": {"kernels", "wire", "errors", "auth", "observability"},
    "kernels": {"backends", "link", "transport", "wire"},
    # What a sandbox has to show and run, and what its relay takes from it or bubblewrap does.
    "backends": {"transport", "wire", "relay.command", "relay.confine", "relay.seccomp"},
    "link": {"transport", "wire"},
    "transport": {"wire"},
    "wire": set(),
    "relay": {"wire"},
    "errors": {"kernels"},  # one table from their error types to a status
    "auth": {"errors"},
    "observability": set(),
    "lab": set(),  # runs in JupyterLab's server, not in the gateway
}

#: Parts that run where little is installed -> the distributions' modules they may import.
BARE = {"wire": set[str](), "relay": {"zmq"}}

#: Parts that may read the environment: the composition root, and the relay that of its own sandbox.
ENVIRONMENT = {"app", "relay"}
ENVIRONMENT_NAMES = {"environ", "environb", "getenv", "getenvb"}


def part(file: Path) -> str:
    """The part that a source file belongs to; app_*.py are pages of app."""
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "app" if name.startswith("app_") else name


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a module of `package`, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            argument = node.args[0] if node.args else None
            known = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            yield node.lineno, argument.value if known else "a computed name"  # type: ignore[union-attr]


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def forbidden(source: str, package: str, owner: str) -> list[str]:
    """What a module of the part `owner` imports against the tables, as "line: name"."""
    wrong = []
    for line, name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == "gateway":
            target = rest.split(".")[0] or "__init__"
            target = "app" if target.startswith("app_") else target
            own = target == owner or (target not in ARROWS and _is_name(target))
            along = [arrow for arrow in ARROWS[owner] if f"{rest}.".startswith(f"{arrow}.")]
            allowed = own or bool(along) or (target == "app" and "app" in ARROWS[owner])
        elif owner in BARE:
            allowed = top in sys.stdlib_module_names or top in BARE[owner]
        else:
            allowed = name != "a computed name"
        if not allowed:
            wrong.append(f"{line}: {name}")
    return wrong


def _is_name(target: str) -> bool:
    """Whether `from gateway import x` takes a name of the package itself, such as __version__."""
    return not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").exists()


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(file: Path) -> str:
    """The package that a file's relative imports start from."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts[:-1])


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_only_along_the_arrows(file: Path) -> None:
    assert part(file) in ARROWS, (
        f"{part(file)} has no place in the design: add it to the table and to docs/design.md"
    )
    assert not forbidden(file.read_text(), dotted(file), part(file))


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_composition_root_and_the_relay_read_the_environment(file: Path) -> None:
    if part(file) in ENVIRONMENT:
        return
    names = {
        (node.lineno, node.attr)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT_NAMES
    }
    assert not names


def test_the_arrows_have_no_way_back() -> None:
    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(ARROWS[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += ARROWS[name.split(".")[0]]
        return seen

    assert not [name for name in ARROWS if name in {arrow.split(".")[0] for arrow in reach(name)}]


# Each line would be an arrow that the design forbids: the package, the part, and the source.
WRONG = {
    "left along the chain": ("gateway.wire", "wire", "from ..transport import base"),
    "a lazy import": ("gateway.link", "link", "def f():\n    from gateway.web import routes"),
    "an import for types only": (
        "gateway.transport",
        "transport",
        "if TYPE_CHECKING:\n    import gateway.kernels",
    ),
    "another distribution in wire": ("gateway.wire", "wire", "import tornado"),
    "pyzmq in wire": ("gateway.wire", "wire", "import zmq"),
    "another distribution in the relay": ("gateway.relay", "relay", "import jupyter_client"),
    "the gateway's side in the relay": ("gateway.relay", "relay", "from ..transport import pipe"),
    "the relay in a backend": ("gateway.backends.x", "backends", "from ...relay import main"),
    "the composition root": ("gateway.web", "web", "from gateway import app"),
    "an import by call": ("gateway.web", "web", "importlib.import_module('gateway.app')"),
    "an import of a computed name": ("gateway.kernels", "kernels", "importlib.import_module(name)"),
}


@pytest.mark.parametrize(("package", "owner", "source"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_arrow_is_found(package: str, owner: str, source: str) -> None:
    assert forbidden(source, package, owner)
