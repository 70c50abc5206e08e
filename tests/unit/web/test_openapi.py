"""The OpenAPI document against the router, and against a gateway that runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate

from gateway.errors import TABLE
from gateway.web.api import openapi_document
from gateway.web.routes import ROUTES
from tests.unit.web.serving import TOKEN, gateway

DOCUMENT: dict[str, Any] = yaml.safe_load(openapi_document())
OPERATIONS = [
    (path, method.upper(), operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if method != "parameters"
]
#: Operations that start a kernel, with whatever `Kernels.create` refuses.
STARTING = {("/api/kernels", "POST"), ("/api/sessions", "POST"), ("/api/sessions/{session_id}", "PATCH")}
#: What the rules of `errors` do not say: where else a status is possible.
MORE = {
    ("/api/me", "GET"): {400},
    ("/api/kernels/{kernel_id}/interrupt", "POST"): {409},
    ("/api/kernels/{kernel_id}/restart", "POST"): {409},
    ("/api/kernels/{kernel_id}/channels", "GET"): {426},
    ("/readyz", "GET"): {503},
}


def errors(path: str, method: str) -> set[int]:
    """The statuses from 400 on that an operation may answer with."""
    statuses = {403} | MORE.get((path, method), set())  # at least its Host may be wrong
    if "{" in path:
        statuses |= {400, 404}  # bytes that are no UTF-8; nothing there
    if method != "GET":
        statuses |= {413}
    if (path, method) in STARTING:
        statuses |= {400, 404, 429, 500, 503}
    return statuses


def test_the_document_is_valid_openapi():
    validate(DOCUMENT)


def test_the_document_and_the_router_have_the_same_paths():
    assert set(DOCUMENT["paths"]) == set(ROUTES)


@pytest.mark.gen_test
async def test_the_document_and_the_router_have_the_same_methods(tmp_path: Path):
    async with gateway(tmp_path) as server:
        for path in ROUTES:
            response = await server.fetch("TRACE", path.replace("{", "").replace("}", ""))
            possible = set(response.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"}
            assert possible == {method for where, method, _ in OPERATIONS if where == path}, path


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:40])
def test_each_operation_lists_the_errors_that_are_possible_there(
    path: str, method: str, operation: dict[str, Any]
):
    listed = {int(status) for status in operation["responses"] if status >= "400"}
    assert listed == errors(path, method)


def test_every_status_of_the_error_table_is_in_the_document():
    listed = {int(status) for _, _, operation in OPERATIONS for status in operation["responses"]}
    assert {row.status for row in TABLE.values()} <= listed


@pytest.mark.gen_test
async def test_the_document_is_served_as_it_is_kept(tmp_path: Path):
    async with gateway(tmp_path, base_url="/base/") as server:
        response = await server.fetch("GET", "/api/spec.yaml")
        assert response.body == openapi_document()
        assert response.headers["Content-Type"] == "application/yaml"


@pytest.mark.gen_test(timeout=240)
async def test_schemathesis_finds_no_fault_and_leaves_no_kernel(tmp_path: Path):
    async with gateway(tmp_path / "specs", base_url="/base/", max_kernels=50, start_wait=1) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            server.url("/api/spec.yaml"),
            f"--url={server.url('')}",
            f"--header=Authorization: token {TOKEN}",
            "--checks=all",
            "--seed=4",
            "--max-examples=10",
            "--generation-database=none",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        print(output.decode())
        assert process.returncode == 0
        assert len(server.backend.made) > 0
        for kernel in await server.json("GET", "/api/kernels"):
            assert (await server.fetch("DELETE", f"/api/kernels/{kernel['id']}")).code == 204
        assert all(sandbox.destroyed for sandbox in server.backend.made)
        assert await server.json("GET", "/api/sessions") == []
