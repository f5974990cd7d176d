"""`/docs/guide`: the documentation from an archive, with a strict policy, in developer mode only."""

from pathlib import Path
from zipfile import ZipFile

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from starling import main
from starling.settings import Settings
from starling.web.guide import build_router

PAGE = "<html><script>first()</script><script>second()</script><script src='x.js'></script></html>"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "guide.zip"
    with ZipFile(path, "w") as files:
        files.writestr("index.html", PAGE)
        files.writestr("pictures/overview.png", b"\x89PNG")
        files.writestr("search.json", "{}")
    return path


@pytest.fixture
def client(archive: Path) -> TestClient:
    application = FastAPI()
    application.include_router(build_router(archive))
    return TestClient(application)


def test_the_address_leads_to_the_first_page(client: TestClient) -> None:
    answer = client.get("/docs/guide")
    assert str(answer.url).endswith("/docs/guide/index.html")
    assert answer.text == PAGE
    assert client.get("/docs/guide/").text == PAGE


def test_only_the_scripts_of_the_page_itself_run(client: TestClient) -> None:
    policy = client.get("/docs/guide/index.html").headers["content-security-policy"]
    # openssl dgst -sha256 -binary | base64, of each of the two.
    first, second = "fDYmfWjvur9AxjhDbjHe6RvExc05MbXhhrbgz2vvy/A=", "VRcK3v7WYQJL3yHheBe4dsvLYjAYwFTyoPi2odncRio="
    assert f"'sha256-{first}'" in policy
    assert f"'sha256-{second}'" in policy
    assert "script-src 'self' 'unsafe-inline'" not in policy


@pytest.mark.parametrize(
    ("path", "media_type"), [("pictures/overview.png", "image/png"), ("search.json", "application/json")]
)
def test_files_have_their_type(client: TestClient, path: str, media_type: str) -> None:
    answer = client.get(f"/docs/guide/{path}")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["missing.html", "pictures", "..%2Fpages.py", "%2Fetc%2Fpasswd"])
def test_a_page_that_does_not_exist_is_404_with_the_way_to_the_first(client: TestClient, path: str) -> None:
    answer = client.get(f"/docs/guide/{path}")
    assert answer.status_code == 404
    assert "see /docs/guide/index.html" in answer.json()["detail"]


@pytest.mark.parametrize(("dev", "built", "status"), [(True, True, 200), (True, False, 404), (False, True, 404)])
def test_it_is_served_in_developer_mode_once_it_is_built(
    archive: Path, monkeypatch: pytest.MonkeyPatch, *, dev: bool, built: bool, status: int
) -> None:
    path = archive if built else archive.with_name("missing.zip")
    monkeypatch.setattr(main, "GUIDE", path)
    monkeypatch.setattr("starling.web.guide.ARCHIVE", path)
    settings = Settings(dev=dev, token_hmac_secret=SecretStr("s" * 32))
    client = TestClient(main.create_app(settings, CollectorRegistry()))
    assert client.get("/docs/guide/index.html").status_code == status
    assert f"&quot;guide&quot;:{'true' if status == 200 else 'false'}" in client.get("/").text
