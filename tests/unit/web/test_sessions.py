"""`/api/sessions`, by the rules of jupyter_server's session manager."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import until
from tests.unit.web.serving import Gateway, gateway

NOTEBOOK = {"path": "a.ipynb", "type": "notebook", "name": "a.ipynb", "kernel": {"name": "python3"}}


@pytest.mark.gen_test
async def test_a_session_is_made_with_its_kernel_and_read_again(tmp_path: Path):
    async with gateway(tmp_path, base_url="/base/") as server:
        response = await server.fetch("POST", "/api/sessions", NOTEBOOK)
        session = json.loads(response.body)
        assert response.code == 201
        assert response.headers["Location"] == f"/base/api/sessions/{session['id']}"
        kernel = await server.json("GET", f"/api/kernels/{session['kernel']['id']}")
        assert session == {
            "id": session["id"],
            "path": "a.ipynb",
            "type": "notebook",
            "name": "a.ipynb",
            "kernel": kernel,
            "notebook": {"path": "a.ipynb", "name": "a.ipynb"},
        }
        assert await server.json("GET", f"/api/sessions/{session['id']}") == session
        assert await server.json("GET", "/api/sessions") == [session]


@pytest.mark.gen_test
async def test_what_thebe_sends_gets_a_session(tmp_path: Path):
    async with gateway(tmp_path) as server:
        assert (await server.fetch("GET", "/api/status")).code == 200
        asked = {"name": "thebe.ipynb", "path": "/", "type": "notebook", "kernel": {"name": "python"}}
        session = await server.json("POST", "/api/sessions", asked)
        assert session["kernel"]["name"] == "python3"


@pytest.mark.gen_test
async def test_a_session_without_a_name_has_an_empty_one(tmp_path: Path):
    # @jupyterlab/services refuses a model whose name is no string (session/validate.js).
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", {"path": "console-1", "type": "console"})
        assert session["name"] == ""
        assert "notebook" not in session


@pytest.mark.gen_test
async def test_one_path_and_type_has_one_kernel_also_for_requests_at_the_same_time(tmp_path: Path):
    async with gateway(tmp_path) as server:
        sessions = await asyncio.gather(
            *(server.json("POST", "/api/sessions", NOTEBOOK) for _ in range(5)),
        )
        assert len({session["id"] for session in sessions}) == 1
        assert len({session["kernel"]["id"] for session in sessions}) == 1
        other = await server.json("POST", "/api/sessions", NOTEBOOK | {"type": "console"})
        assert other["kernel"]["id"] != sessions[0]["kernel"]["id"]
        assert len(server.kernels.list()) == 2


@pytest.mark.gen_test
async def test_a_start_that_is_refused_leaves_no_session_and_the_path_free(tmp_path: Path):
    async with gateway(tmp_path) as server:
        refused = await server.fetch("POST", "/api/sessions", NOTEBOOK | {"kernel": {"name": "julia"}})
        assert refused.code == 404
        assert await server.json("GET", "/api/sessions") == []
        assert (await server.fetch("POST", "/api/sessions", NOTEBOOK)).code == 201


@pytest.mark.gen_test
async def test_a_session_can_be_made_of_a_running_kernel(tmp_path: Path):
    async with gateway(tmp_path) as server:
        kernel = await server.json("POST", "/api/kernels")
        session = await server.json("POST", "/api/sessions", NOTEBOOK | {"kernel": {"id": kernel["id"]}})
        assert session["kernel"] == kernel
        assert len(server.kernels.list()) == 1


@pytest.mark.gen_test
async def test_patch_renames_and_moves_and_keeps_the_kernel(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        changed = await server.json(
            "PATCH", f"/api/sessions/{session['id']}", {"id": session["id"], "path": "b/c.ipynb", "name": "c"}
        )
        assert (changed["path"], changed["name"], changed["type"]) == ("b/c.ipynb", "c", "notebook")
        assert changed["kernel"]["id"] == session["kernel"]["id"]
        again = await server.json("POST", "/api/sessions", NOTEBOOK | {"path": "b/c.ipynb"})
        assert again["id"] == session["id"]
        assert await patch(server, changed, {}) == changed


@pytest.mark.gen_test
async def test_patch_with_a_name_starts_a_new_kernel_and_shuts_the_old_one_down(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        changed = await patch(server, session, {"kernel": {"name": "ir"}})
        assert changed["kernel"]["name"] == "ir"
        assert [kernel.id for kernel in server.kernels.list()] == [changed["kernel"]["id"]]
        assert server.backend.made[0].destroyed


@pytest.mark.gen_test
async def test_patch_with_an_id_takes_that_kernel_and_its_own_id_changes_nothing(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        # JupyterLab may send the whole model back.
        assert await patch(server, session, session) == session
        kernel = await server.json("POST", "/api/kernels")
        changed = await patch(server, session, {"kernel": {"id": kernel["id"], "name": "ir"}})
        assert changed["kernel"]["id"] == kernel["id"]
        assert len(server.kernels.list()) == 1


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "b", "kernel": {"name": "julia"}}, 404),
        ({"path": "b", "kernel": {"id": "x"}}, 404),
        ({"path": "b", "kernel": []}, 400),
        ({"path": "b", "name": 1}, 400),
    ],
    ids=str,
)
async def test_a_patch_that_is_refused_changes_nothing(tmp_path: Path, change: object, status: int):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        assert (await server.fetch("PATCH", f"/api/sessions/{session['id']}", change)).code == status
        assert await server.json("GET", "/api/sessions") == [session]
        assert len(server.kernels.list()) == 1


@pytest.mark.gen_test
async def test_patches_at_the_same_time_leave_one_kernel(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        server.backend.hold.clear()
        changes = [
            asyncio.ensure_future(patch(server, session, {"kernel": {"name": name}}))
            for name in ("ir", "python3", "ir")
        ]
        await until(lambda: len(server.backend.starts) == 2)
        server.backend.hold.set()
        answers = [await change for change in changes]
        (kernel,) = server.kernels.list()
        (left,) = await server.json("GET", "/api/sessions")
        assert left["kernel"]["id"] == kernel.id
        assert len({answer["kernel"]["id"] for answer in answers}) == 3
        assert len(server.backend.made) == 4


@pytest.mark.gen_test
@pytest.mark.parametrize("ended", ["the session", "its kernel"])
async def test_a_patch_of_a_session_that_ends_meanwhile_is_404_and_leaves_no_kernel(
    tmp_path: Path, ended: str
):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        server.backend.hold.clear()
        path = f"/api/sessions/{session['id']}"
        changes = [
            asyncio.ensure_future(server.fetch("PATCH", path, change))
            for change in ({"kernel": {"name": "ir"}}, {"kernel": {"name": "ir"}}, {"name": "another"})
        ]
        await until(lambda: len(server.backend.starts) == 2)
        ending = path if ended == "the session" else f"/api/kernels/{session['kernel']['id']}"
        # It does not wait for the start that is under way.
        assert (await server.fetch("DELETE", ending)).code == 204
        server.backend.hold.set()
        assert [(await change).code for change in changes] == [404] * 3
        assert await server.json("GET", "/api/sessions") == []
        assert server.kernels.list() == []
        assert len(server.backend.made) == 2


@pytest.mark.gen_test
async def test_delete_ends_session_and_kernel_and_then_answers_404(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        path = f"/api/sessions/{session['id']}"
        assert (await server.fetch("DELETE", path)).code == 204
        assert server.kernels.list() == []
        assert (await server.fetch("DELETE", path)).code == 404
        assert (await server.fetch("PATCH", path, {})).code == 404


@pytest.mark.gen_test
async def test_a_session_ends_with_its_kernel(tmp_path: Path):
    async with gateway(tmp_path) as server:
        session = await server.json("POST", "/api/sessions", NOTEBOOK)
        await server.fetch("DELETE", f"/api/kernels/{session['kernel']['id']}")
        assert await server.json("GET", "/api/sessions") == []
        assert (await server.fetch("GET", f"/api/sessions/{session['id']}")).code == 404
        fresh = await server.json("POST", "/api/sessions", NOTEBOOK)
        assert fresh["id"] != session["id"]


@pytest.mark.gen_test
async def test_a_session_of_someone_else_is_as_if_it_did_not_exist(tmp_path: Path):
    async with gateway(tmp_path) as server:
        kernel = server.kernels.create("python3", {}, "someone else")
        theirs = server.application.settings["sessions"].add(
            "someone else", "a.ipynb", "", "notebook", kernel
        )
        assert await server.json("GET", "/api/sessions") == []
        for method in ("GET", "PATCH", "DELETE"):
            assert (await server.fetch(method, f"/api/sessions/{theirs.id}")).code == 404
        own = await server.json("POST", "/api/sessions", NOTEBOOK)
        assert own["id"] != theirs.id
        assert own["kernel"]["id"] != kernel.id


async def patch(server: Gateway, session: dict[str, Any], change: object) -> dict[str, Any]:
    changed: dict[str, Any] = await server.json("PATCH", f"/api/sessions/{session['id']}", change)
    return changed
