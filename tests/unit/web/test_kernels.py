"""`/api/kernels`: the codes and shapes that jupyter_server's and JupyterLab's clients insist on."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from pathlib import Path

import pytest

from gateway.backends.base import BackendError, CapacityError
from tests.support.patience import until
from tests.unit.web.serving import gateway


@pytest.mark.gen_test
async def test_a_started_kernel_is_answered_with_201_its_location_and_its_model(tmp_path: Path):
    async with gateway(tmp_path, base_url="/base/") as server:
        response = await server.fetch("POST", "/api/kernels", {"name": "python3", "env": {}})
        model = json.loads(response.body)
        assert response.code == 201
        assert response.headers["Location"] == f"/base/api/kernels/{model['id']}"
        assert response.headers["Content-Type"] == "application/json"
        assert str(uuid.UUID(model["id"])) == model["id"]
        assert (model["name"], model["execution_state"], model["connections"]) == ("python3", "idle", 0)
        # jupyter_server parses it with exactly this format (gateway/managers.py, refresh_model).
        datetime.datetime.strptime(model["last_activity"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert await server.json("GET", f"/api/kernels/{model['id']}") == model
        assert await server.json("GET", "/api/kernels") == [model]


@pytest.mark.gen_test
async def test_a_kernel_that_takes_long_is_answered_as_starting_and_becomes_idle(tmp_path: Path):
    async with gateway(tmp_path, start_wait=0.05) as server:
        server.backend.hold.clear()
        model = await server.json("POST", "/api/kernels", {"name": "python3"})
        assert model["execution_state"] == "starting"
        server.backend.hold.set()
        await server.kernels.get(model["id"]).wait_ready()
        assert (await server.json("GET", f"/api/kernels/{model['id']}"))["execution_state"] == "idle"


@pytest.mark.gen_test
async def test_the_answer_waits_for_a_kernel_that_is_not_ready_yet(tmp_path: Path):
    async with gateway(tmp_path) as server:
        server.backend.hold.clear()
        request = asyncio.ensure_future(server.json("POST", "/api/kernels"))
        await until(lambda: bool(server.backend.starts))
        assert not request.done()
        server.backend.hold.set()
        assert (await request)["execution_state"] == "idle"


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", [BackendError, CapacityError])
async def test_a_start_that_fails_is_no_http_error_and_says_why_in_reason(
    tmp_path: Path, kind: type[BackendError]
):
    async with gateway(tmp_path) as server:
        server.backend.error = kind("There is no room here. Make some.")
        response = await server.fetch("POST", "/api/kernels", {"name": "python3"})
        model = json.loads(response.body)
        assert (response.code, model["execution_state"]) == (201, "dead")
        assert "There is no room here. Make some." in model["reason"]
        server.backend.error = None
        assert (await server.fetch("POST", f"/api/kernels/{model['id']}/restart")).code == 200


@pytest.mark.gen_test
async def test_delete_answers_204_and_then_404(tmp_path: Path):
    async with gateway(tmp_path) as server:
        model = await server.json("POST", "/api/kernels")
        first = await server.fetch("DELETE", f"/api/kernels/{model['id']}")
        assert (first.code, first.body) == (204, b"")
        assert server.backend.made[0].destroyed
        assert (await server.fetch("DELETE", f"/api/kernels/{model['id']}")).code == 404
        assert (await server.fetch("GET", f"/api/kernels/{model['id']}")).code == 404


@pytest.mark.gen_test
@pytest.mark.parametrize("body", [None, b"", {}], ids=["no body", "an empty body", "an empty object"])
async def test_interrupt_answers_204_and_restart_200_with_the_model(tmp_path: Path, body: object):
    async with gateway(tmp_path) as server:
        model = await server.json("POST", "/api/kernels", body)
        path = f"/api/kernels/{model['id']}"
        assert (await server.fetch("POST", f"{path}/interrupt", body)).code == 204
        response = await server.fetch("POST", f"{path}/restart", body)
        assert response.code == 200
        assert json.loads(response.body)["id"] == model["id"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("asked", "started"),
    [
        ({}, "python3"),
        ({"name": None}, "python3"),
        ({"name": "python3"}, "python3"),
        ({"name": "python"}, "python3"),  # thebe-core's default
        ({"name": "R"}, "ir"),
        ({"name": "r"}, "ir"),
        ({"name": "ir", "kernel_id": "x", "anything": [1]}, "ir"),
    ],
    ids=str,
)
async def test_names_mean_a_kernelspec_or_the_language_of_one(
    tmp_path: Path, asked: dict[str, object], started: str
):
    async with gateway(tmp_path) as server:
        assert (await server.json("POST", "/api/kernels", asked))["name"] == started


@pytest.mark.gen_test
async def test_an_unknown_kernelspec_is_404_with_the_names_there_are(tmp_path: Path):
    async with gateway(tmp_path) as server:
        response = await server.fetch("POST", "/api/kernels", {"name": "julia"})
        assert response.code == 404
        assert "broken, ir, python3" in json.loads(response.body)["message"]
        assert server.kernels.list() == []


@pytest.mark.gen_test
async def test_the_environment_is_filtered_by_name_and_dropped_names_are_logged_once_without_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    env = {"KERNEL_USERNAME": "ann", "KERNEL_LAUNCH_TIMEOUT": "a-value", "LD_PRELOAD": "/a-value.so"}
    async with gateway(tmp_path) as server:
        for _ in range(2):
            await server.json("POST", "/api/kernels", {"env": env})
        passed = server.backend.starts[0]["env"]
        assert passed["KERNEL_USERNAME"] == "ann"
        assert not {"KERNEL_LAUNCH_TIMEOUT", "LD_PRELOAD"} & set(passed)
        assert b"jupyter_gateway_dropped_env_names_total 4.0" in server.settings.metrics.text()
    named = [record.getMessage() for record in caplog.records if "LD_PRELOAD" in record.getMessage()]
    assert len(named) == 1
    assert "a-value" not in caplog.text


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, "\ud800", "\0", 40, None, ["a"], {"b": 1}],
    ids=["a long one", "half a surrogate", "a NUL", "a number", "null", "an array", "an object"],
)
async def test_no_value_of_a_name_that_is_dropped_keeps_a_kernel_from_starting(tmp_path: Path, value: object):
    async with gateway(tmp_path) as server:
        env = {"KERNEL_LAUNCH_TIMEOUT": value, "\ud800": value, "KERNEL_WORKING_DIR": "x" * 16384}
        assert (await server.json("POST", "/api/kernels", {"env": env}))["execution_state"] == "idle"
        passed = server.backend.starts[0]["env"]
        assert passed["KERNEL_WORKING_DIR"] == "x" * 16384
        assert not {"KERNEL_LAUNCH_TIMEOUT", "\ud800"} & set(passed)


@pytest.mark.gen_test
async def test_a_kernel_of_a_client_that_left_before_the_answer_is_shut_down(tmp_path: Path):
    async with gateway(tmp_path) as server:
        server.backend.hold.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /api/kernels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
            b"Authorization: token a-token-that-no-log-may-show\r\n\r\n"
        )
        await until(lambda: bool(server.backend.starts))
        writer.close()
        await writer.wait_closed()
        await server.json("GET", "/api")  # what the server hears after the end of that connection
        server.backend.hold.set()
        await until(lambda: not server.kernels.list())


@pytest.mark.gen_test
async def test_a_kernel_of_someone_else_is_as_if_it_did_not_exist(tmp_path: Path):
    async with gateway(tmp_path) as server:
        kernel = server.kernels.create("python3", {}, "someone else")
        await kernel.wait_ready()
        assert await server.json("GET", "/api/kernels") == []
        assert (await server.json("GET", "/api/status"))["kernels"] == 0
        path = f"/api/kernels/{kernel.id}"
        for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt"), ("POST", "/restart")):
            assert (await server.fetch(method, path + below)).code == 404
        taking = {"path": "a", "type": "b", "kernel": {"id": kernel.id}}
        assert (await server.fetch("POST", "/api/sessions", taking)).code == 404
        assert server.kernels.list() == [kernel]


@pytest.mark.gen_test
async def test_starts_are_counted_by_kernelspec_and_failures_by_reason(tmp_path: Path):
    async with gateway(tmp_path, max_kernels=1) as server:
        await server.json("POST", "/api/kernels")
        await server.fetch("POST", "/api/kernels")
        await server.fetch("POST", "/api/kernels", {"name": "julia"})
        text = (await server.fetch("GET", "/metrics")).body.decode()
        assert 'jupyter_gateway_kernel_starts_total{kernelspec="python3"} 1.0' in text
        assert 'jupyter_gateway_kernel_start_duration_seconds_count{kernelspec="python3"} 1.0' in text
        assert 'jupyter_gateway_kernel_start_failures_total{reason="max_kernels"} 1.0' in text
        assert 'jupyter_gateway_kernel_start_failures_total{reason="no_such_kernelspec"} 1.0' in text
        assert 'jupyter_gateway_kernels{state="idle"} 1.0' in text
