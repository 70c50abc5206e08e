"""`make serve` as it is typed, once for the module that asks for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateways import ROOT, GatewayProgram


@pytest.fixture(scope="module")
def served() -> Iterator[GatewayProgram]:
    """`make serve` in a shell of this account, in the project's folder."""
    # A session as a person has it; only the token of an outer gateway would not be there.
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_")}
    program = GatewayProgram(
        ["make", "--no-print-directory", "serve"], {**env, "PYTHONUNBUFFERED": "1"}, ROOT
    )
    yield program
    # make hands SIGTERM on to the gateway; SIGKILL would leave that behind.
    program.end()
    program.close()


@pytest.fixture
def home_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder below this account's own home, which others may be unable to enter."""
    folder = Path(tempfile.mkdtemp(prefix=".gateway-test-", dir=Path.home()))
    yield folder
    shutil.rmtree(folder)
