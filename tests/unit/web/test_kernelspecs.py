"""`/api/kernelspecs` and the logos: what JupyterLab validates, and that no path leads out of a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.web.serving import LOGO, gateway


@pytest.mark.gen_test
async def test_kernelspecs_are_listed_as_jupyterlab_validates_them(tmp_path: Path):
    async with gateway(tmp_path, base_url="/base/") as server:
        listing = await server.json("GET", "/api/kernelspecs")
        assert listing["default"] == "python3"
        assert set(listing["kernelspecs"]) == {"python3", "ir", "broken"}
        python = listing["kernelspecs"]["python3"]
        assert python["name"] == "python3"
        assert python["spec"]["language"] == "python"
        assert python["spec"]["argv"][-1] == "{connection_file}"
        assert python["resources"] == {
            "kernel.js": "/base/kernelspecs/python3/kernel.js",
            "logo-64x64": "/base/kernelspecs/python3/logo-64x64.png",
            "logo-svg": "/base/kernelspecs/python3/logo-svg.svg",
        }
        assert listing["kernelspecs"]["ir"]["resources"] == {}
        assert await server.json("GET", "/api/kernelspecs/python3") == python


@pytest.mark.gen_test
async def test_a_default_that_is_not_installed_is_replaced_by_one_that_is(tmp_path: Path):
    async with gateway(tmp_path) as server:
        server.kernels.kernelspecs.default_kernel_name = "julia"
        assert (await server.json("GET", "/api/kernelspecs"))["default"] == "broken"  # the first by name
        assert (await server.fetch("POST", "/api/kernels", {"name": "julia"})).code == 404


@pytest.mark.gen_test
async def test_a_kernelspec_that_is_added_is_seen_at_once(tmp_path: Path):
    async with gateway(tmp_path) as server:
        folder = tmp_path / "added"
        folder.mkdir()
        (folder / "kernel.json").write_text(
            json.dumps({"argv": ["x"], "display_name": "Added", "language": "x"})
        )
        assert "added" in (await server.json("GET", "/api/kernelspecs"))["kernelspecs"]


@pytest.mark.gen_test
async def test_a_file_whose_name_is_no_utf8_is_left_out(tmp_path: Path):
    async with gateway(tmp_path) as server:
        before = await server.json("GET", "/api/kernelspecs")
        (tmp_path / "python3" / os.fsdecode(b"logo-\xff.png")).write_bytes(b"\x89PNG")
        assert await server.json("GET", "/api/kernelspecs") == before
        assert (await server.fetch("GET", "/kernelspecs/python3/logo-%ff.png")).code == 400


@pytest.mark.gen_test
async def test_a_logo_has_its_type_and_an_etag_that_answers_304(tmp_path: Path):
    async with gateway(tmp_path) as server:
        response = await server.fetch("GET", "/kernelspecs/python3/logo-svg.svg")
        assert (response.code, response.body) == (200, LOGO)
        assert response.headers["Content-Type"] == "image/svg+xml"
        # A logo may be a page with scripts; opened by itself it must not run in the gateway's origin.
        assert "sandbox" in response.headers["Content-Security-Policy"]
        again = {"If-None-Match": response.headers["ETag"]}
        assert (await server.fetch("GET", "/kernelspecs/python3/logo-svg.svg", headers=again)).code == 304
        head = await server.fetch("HEAD", "/kernelspecs/python3/logo-svg.svg")
        assert (head.code, head.body, head.headers["Content-Length"]) == (200, b"", str(len(LOGO)))


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "resource",
    [
        "secret.txt",
        "kernel.json",
        "../ir/kernel.json",
        "..%2fir%2fkernel.json",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "logo-svg.svg%00.png",
        "logo-%2f..%2f..%2fsecret",
        "%2fetc%2fpasswd",
        "logo-",
        "logo-folder",
        "logo-huge.png",
        ".",
        "..",
    ],
)
async def test_what_is_no_resource_is_404(tmp_path: Path, resource: str):
    async with gateway(tmp_path) as server:
        (tmp_path / "secret").write_text("beside the kernelspecs")
        (tmp_path / "python3" / "logo-folder").mkdir()
        with (tmp_path / "python3" / "logo-huge.png").open("wb") as file:
            file.truncate(5 * 1024 * 1024)
        response = await server.fetch("GET", f"/kernelspecs/python3/{resource}")
        assert response.code == 404
        assert set(json.loads(response.body)) == {"reason", "message"}
