"""The command, pages and cookies of a site with an empty store: no video and no feature is needed."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.__main__ import AppOptions, main
from app.server import create_app, listener
from app.site import Site
from store import Store
from tests.app.annotate_made import names, write_task


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Create an empty store, and return its path."""
    return str(Store.open(tmp_path / "features", create=True).path)


def visit(store: str, task: Path | None = None) -> TestClient:
    """Return a browser of a server of these pages."""
    site = Site.open(store, annotate=None if task is None else str(task), cache=f"{store}/../cache")
    return TestClient(create_app(site), "http://127.0.0.1")


def test_without_host_the_server_listens_on_this_machine_only() -> None:
    with listener(AppOptions().host, 0) as socket:
        assert socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("option", ["store", "videos", "runs", "predictions", "annotate"])
def test_a_missing_store_folder_or_task_is_one_line_before_the_server_starts(
    store: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["--store", store, "--port", "0", f"--{option}", "/none"]))
    shown = capsys.readouterr()
    assert ended.value.code == 2 and "/none" in shown.err
    *said, error = shown.err.splitlines()
    assert error.startswith("error: ") and "/none" in error and "http" not in shown.out
    assert said[0] == "loading the libraries of the pages" and len(said) < 4


@pytest.mark.parametrize("address", ["/explore", "/pair", "/compare", "/annotate"])
def test_every_page_exists_as_json_at_its_own_address(store: str, tmp_path: Path, address: str) -> None:
    client = visit(store, write_task(tmp_path, names(1)))
    record = client.get(address, headers={"Accept": "application/json"})
    shown = client.get(address, headers={"Accept": "text/html"})
    assert record.headers["content-type"] == "application/json" and shown.headers["content-type"][:9] == "text/html"
    assert record.status_code == shown.status_code and f"<title>{record.json()['title']}" in shown.text


def test_the_page_of_a_gold_pair_is_like_that_of_any_other_pair(store: str, tmp_path: Path) -> None:
    pages = []
    for rate in (0, 1):  # the first pair is work, or gold
        client = visit(store, write_task(tmp_path / str(rate), names(2), gold=names(1, "gold"), gold_rate=rate))
        assert client.post("/annotate/enter", json={"name": "Ann"}).status_code == 200
        pages.append(client.get("/annotate", headers={"Accept": "application/json"}).json())
    assert [shown.pop("of") for shown in pages] == [2, 3], "a task with gold pairs has more pairs, whichever is shown"
    assert pages[0] == pages[1] and not pages[0]["training"]


def test_the_cookie_is_httponly_and_samesite_strict(store: str, tmp_path: Path) -> None:
    client = visit(store, write_task(tmp_path, names(1)))
    found = client.post("/annotate/enter", json={"name": "Ann"}).headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict"} <= set(found) and "Secure" not in found, "of http, on this machine"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: give --public-url, the address that other machines open"),
        (["--public-url", "https://a.example"], "--public-url: other machines reach the annotation pages only"),
        (["--trust-proxy", "10.0.0.1"], "--trust-proxy: give the address that the proxy has, with --public-url"),
        (["--public-url", "a.example", "--annotate", "x"], "--public-url 'a.example': give scheme and host only"),
        (["--public-url", "https://a.example/x", "--annotate", "x"], "give scheme and host only"),
        (["--public-url", "https://a.example", "--annotate", "x", "--trust-proxy", "a"], "--trust-proxy: 'a' does not"),
    ],
)
def test_addresses_of_the_server_that_cannot_be_are_one_line(
    store: str, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--store", store, "--port", "0", *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and why in error
