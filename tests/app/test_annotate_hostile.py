"""What a stranger, a curious annotator or a broken client may send to the annotation pages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from stepdiff.annotate.forms.answers import read_answers
from stepdiff.app.annotating.accounts import add, link, named, revoke
from stepdiff.app.annotating.database import Database, default_url
from stepdiff.app.annotating.events import events
from stepdiff.app.annotating.service import ADDRESS_BURST, PERSON_BURST
from stepdiff.app.options import AppOptions
from stepdiff.app.server import MOST_BODY, create_app
from stepdiff.app.site import Site
from store import Store
from tests.app.annotation_tasks import CATEGORIES, EMPTY, write_task

pytestmark = pytest.mark.full
SCRIPT = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
SQL = "x'); DROP TABLE people; DELETE FROM events; --"
PLAIN: dict[str, Any] = {"keystep": "whisk the eggs", "texts": EMPTY}


class Place:
    """A task, its database and its server."""

    def __init__(
        self,
        world: Path,
        folder: Path,
        public_url: str | None = None,
        task: Path | None = None,
        **options: Any,
    ) -> None:
        clips = (
            Store.open(world / "features")
            .catalog("clips")
            .frame()
            .sort("step", "key")["key"]
            .to_list()
        )
        self.pairs = [(clips[place], clips[place + 1]) for place in range(0, 12, 2)]
        self.task = task or write_task(folder, self.pairs, **{"people": 1, **options})
        store, videos = str(world / "features"), str(world / "kitchen")
        site = Site(
            AppOptions(
                store, videos, annotate=str(self.task), cache=str(folder), public_url=public_url
            )
        )
        self.app = create_app(site)
        self.database = Database.open(default_url(self.task))

    def visit(self, name: str | None = None) -> TestClient:
        """Return a browser, with the link of a person who is added where there is none of this
        name."""
        base = self.app.state.kept[Site].public_url or "http://127.0.0.1"
        client = TestClient(self.app, base, raise_server_exceptions=False, follow_redirects=False)
        client.headers["Accept"] = "application/json"
        if name is not None:
            assert client.get(f"/annotate/as/{self.token(name)}").status_code == 200
        return client

    def token(self, name: str) -> str:
        with self.database.write() as connection:
            known = named(connection, name)
            return add(connection, name, 0.0)[1] if known is None else link(connection, known, 0.0)

    def count(self, kind: str | None = None) -> int:
        with self.database.read() as connection:
            found = select(func.count()).select_from(events)
            return connection.execute(
                found if kind is None else found.where(events.c.kind == kind)
            ).scalar_one()


@pytest.fixture
def place(world: Path, tmp_path: Path) -> Iterator[Place]:
    made = Place(world, tmp_path)
    yield made
    made.database.close()


def work(client: TestClient) -> dict[str, Any]:
    return client.get("/annotate").json()


def submit(client: TestClient, number: int = 1, rejected: str | None = None, **changes: Any) -> Any:
    changes["texts"] = EMPTY | changes.get("texts", {})
    body = {"number": number, "changes": {**PLAIN, **changes}, "rejected": rejected, "seconds": 4.0}
    return client.post(f"/annotate/work/{work(client)['assignment']}/submit", json=body)


def posts(place: Place) -> list[str]:
    """Return all addresses that change something."""
    found = create_app(place.app.state.kept[Site]).openapi()["paths"]
    paths = [path for path, about in found.items() if "post" in about and "annotate" in path]
    return [path.format(identity=1, act="exclude") for path in paths]


def test_a_forged_origin_changes_nothing(place: Place) -> None:
    client = place.visit("Ann")
    work(client)
    before = place.count()
    assert len(posts(place)) == 10
    for address in posts(place):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert client.post(address, json={}, headers=headers).status_code == 403, address
    assert place.count() == before


def test_a_body_of_another_type_than_json_changes_nothing(place: Place) -> None:
    client = place.visit("Ann")
    address = f"/annotate/work/{work(client)['assignment']}/save"
    body = json.dumps({"number": 1, "changes": PLAIN})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        assert client.post(address, content=body, headers={"Content-Type": kind}).status_code == 422
    assert place.count("saved") == 0


def test_script_in_texts_and_names_stays_text(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path, people=2)
    for name, score in ((f"{SCRIPT[:90]}1", 1), (f"{SCRIPT[:90]}2", 4)):
        client = place.visit(name)
        work(client)
        page = client.get("/annotate", headers={"Accept": "text/html"}).text
        assert "<script>alert" not in page and "<img src=x" not in page
        assert submit(
            client, texts={"Visuals": SCRIPT}, scores={"Visuals": score}, keystep=SCRIPT
        ).json()["done"]
        page = client.get("/annotate", headers={"Accept": "text/html"}).text
    admin = place.visit("admin")
    pair = " ".join(place.pairs[0])
    for address in ("", "/pairs", "/disagreements", f"/pair?id={pair}", f"/pair?id={SCRIPT}"):
        response = admin.get(f"/annotate/admin{address}", headers={"Accept": "text/html"})
        assert "<script>alert" not in response.text and "<img src=x" not in response.text
        assert "script-src 'self';" in response.headers["content-security-policy"]
        scripts = re.findall(r"<script\b[^>]*>", response.text)
        assert all(" src=" in script or 'type="application/json"' in script for script in scripts)
    shown = admin.get(f"/annotate/admin/pair?id={pair}").json()
    assert [own["differences"]["Visuals"]["text"] for own in shown["answers"]] == [SCRIPT, SCRIPT]


PATHS = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//etc/passwd",
    "%00",
)


def test_no_path_leads_out_of_the_videos(place: Place) -> None:
    client, admin = place.visit("Ann"), place.visit("admin")
    media = f"/annotate/media/{work(client)['assignment']}"
    for path in PATHS:
        tried = [
            f"{media}/{path}",
            f"{media}/{path}.mp4",
            f"/annotate/media/{path}/left.mp4",
            f"/annotate/as/{path}",
        ]
        tried += [
            f"/annotate/work/{path}/save",
            f"/annotate/admin/media/{path}",
            f"/annotate/admin/export/{path}",
        ]
        for address in tried:
            for visitor in (client, admin):
                response = visitor.get(address)
                assert response.status_code in (400, 401, 404, 405, 422), address
                assert "root:" not in response.text


def test_only_clips_of_the_task_are_shown_to_the_admin(place: Place, world: Path) -> None:
    admin = place.visit("admin")
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    other = next(
        clip for clip in clips if clip not in {own for pair in place.pairs for own in pair}
    )
    assert admin.get(f"/annotate/admin/media/{place.pairs[0][0]}").status_code == 200
    assert admin.get(f"/annotate/admin/media/{other}").status_code == 404


def test_huge_bodies_and_texts_are_refused(place: Place) -> None:
    client = place.visit("Ann")
    address = f"/annotate/work/{work(client)['assignment']}/save"
    assert client.post(address, content=b"x" * (MOST_BODY + 1)).status_code == 413
    many = {f"category {number}": "x" for number in range(1000)}
    for changes in ({"keystep": "x" * 2001}, {"texts": {"Visuals": "x" * 2001}}, {"texts": many}):
        assert client.post(address, json={"number": 1, "changes": changes}).status_code == 422
    deep = b'{"number": 1, "changes": ' + b"[" * 200_000
    response = client.post(address, content=deep, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert place.count("saved") == 0
    for name in ("", " ", "x" * 101, "x" * 2000, "a\nb\x00", "\u202e"):
        assert place.visit("admin").post(
            "/annotate/admin/people", json={"name": name}
        ).status_code in (400, 422)


def test_nobody_changes_another_persons_assignment(place: Place) -> None:
    ann, bob = place.visit("Ann"), place.visit("Bob")
    own = work(ann)["assignment"]
    work(bob)
    body = {"number": 1, "changes": PLAIN}
    for client, status in ((bob, 404), (place.visit(), 401), (place.visit("admin"), 401)):
        assert client.post(f"/annotate/work/{own}/save", json=body).status_code == status
        whole = {**body, "rejected": None, "seconds": 1.0}
        assert client.post(f"/annotate/work/{own}/submit", json=whole).status_code == status
        assert client.get(f"/annotate/media/{own}/left.mp4").status_code == status
    assert submit(ann).json()["done"]
    assert bob.post("/annotate/undo").status_code == 409, "only own submissions"
    assert place.count("undone") == place.count("saved") == 0 and place.count("submitted") == 1
    for number in (0, -1, 2**62, 2**63, 10**40):
        assert bob.post(f"/annotate/work/{number}/save", json=body).status_code in (404, 422)


def test_a_revoked_or_replaced_token_opens_nothing(place: Place) -> None:
    token = place.token("Ann")
    first, second = place.visit(), place.visit()
    for client in (first, second):
        assert client.get(f"/annotate/as/{token}").status_code == 200
        assert client.get("/annotate").status_code == 200, "a link opens on several devices"
    new = place.token("Ann")
    assert (
        first.get("/annotate").status_code == 401
        and first.get(f"/annotate/as/{token}").status_code == 401
    )
    assert (
        first.get(f"/annotate/as/{new}").status_code == 200
        and first.get("/annotate").status_code == 200
    )
    with place.database.write() as connection:
        person = named(connection, "Ann")
        assert person is not None
        revoke(connection, person, 1.0)
    assert (
        first.get("/annotate").status_code == 401
        and first.get(f"/annotate/as/{new}").status_code == 401
    )
    for wrong in ("", "x", "x" * 22, "é", new.upper(), new + " ", "x" * 5000):
        first.cookies.set(
            "stepdiff-annotator", wrong, path="/annotate"
        ) if wrong.isascii() else None
        assert first.get("/annotate").status_code == 401


def test_an_annotator_does_not_open_the_admin_pages(place: Place) -> None:
    client = place.visit("Ann")
    client.cookies.set("stepdiff-admin", client.cookies["stepdiff-annotator"], path="/annotate")
    pages = [
        "",
        "/pairs",
        "/disagreements",
        f"/pair?id={' '.join(place.pairs[0])}",
        "/export/answers",
    ]
    for address in (*pages, f"/media/{place.pairs[0][0]}"):
        assert client.get(f"/annotate/admin{address}").status_code == 401
    for address in posts(place):
        if "/admin/" in address:
            assert client.post(address, json=_valid(address)).status_code == 401, address


def _valid(address: str) -> dict[str, Any]:
    """Return a body that the address accepts."""
    if address.endswith("/import"):
        return {"tasks": []}
    if address.endswith("/adjudicate"):
        return {"pair": "x", "keystep": "x", "texts": {}, "scores": {}}
    return {"name": "Eve"} if address.endswith("/people") else {"person": 1}


def test_sql_in_every_field_is_text(place: Place) -> None:
    client = place.visit(SQL)
    assert work(client)["person"] == SQL
    own = work(client)["assignment"]
    for changes in ({"texts": {SQL: "x"}}, {"scores": {SQL: 3}}):
        assert (
            client.post(
                f"/annotate/work/{own}/save", json={"number": 1, "changes": changes}
            ).status_code
            == 400
        )
    assert submit(client, rejected=SQL).json()["problems"]
    assert submit(client, keystep=SQL, texts={"Visuals": SQL}, scores={"Visuals": 2}).json()["done"]
    admin = place.visit("admin")
    assert admin.post("/annotate/admin/people", json={"name": SQL + "2"}).status_code == 200
    assert admin.get("/annotate/admin/pair", params={"id": SQL}).status_code == 404
    assert admin.get("/annotate/admin/pairs", params={"first": SQL}).status_code == 422
    body = {"pair": SQL, "keystep": SQL, "texts": {SQL: SQL}, "scores": {SQL: 3}}
    assert admin.post("/annotate/admin/adjudicate", json=body).status_code == 404
    body["pair"] = " ".join(place.pairs[0])
    assert admin.post("/annotate/admin/adjudicate", json=body).status_code == 400
    out = place.task.with_name("out.jsonl")
    out.write_bytes(admin.get("/annotate/admin/export/answers").content)
    (answer,) = read_answers(out)
    assert (answer.annotator, answer.keystep, answer.differences["Visuals"].text) == (SQL, SQL, SQL)


def test_a_save_or_submission_that_is_sent_again_changes_nothing(place: Place) -> None:
    client = place.visit("Ann")
    own = work(client)["assignment"]

    def save(number: int, text: str) -> Any:
        return client.post(
            f"/annotate/work/{own}/save", json={"number": number, "changes": {"keystep": text}}
        )

    assert save(5, "new").json() == {"saved": True, "number": 5, "problem": None}
    for number in (5, 4, 1):
        late = save(number, "old")
        assert late.status_code == 409 and late.json()["number"] == 5 and not late.json()["saved"]
    assert work(client)["form"]["keystep"] == "new"
    body = {"number": 6, "changes": PLAIN, "rejected": None, "seconds": 1.0}
    for _ in range(3):
        assert client.post(f"/annotate/work/{own}/submit", json=body).json()["done"]
    assert (
        client.post(f"/annotate/work/{own}/submit", json={**body, "number": 7}).status_code == 409
    )
    assert save(8, "later").status_code == 409
    assert place.count("submitted") == 1 and place.count("saved") == 1


WRONG: list[Any] = [
    *[{"number": number} for number in ("1", 1.5, True, None, -1, 0, 2**40, [], {})],
    *[
        {"changes": changes}
        for changes in ([], "x", None, {"keystep": 5}, {"texts": []}, {"texts": {"Visuals": 5}})
    ],
    *[
        {"changes": {"scores": {"Visuals": score}}}
        for score in ("3", 3.5, True, 0, 6, -1, [], 10**30)
    ],
    *[{"seconds": seconds} for seconds in ("5", -1, 1e300, None, True, [])],
    *[{"rejected": reason} for reason in (5, [], {}, "x" * 201)],
    {"more": 1},
    {"changes": {"more": 1}},
    {"changes": {"texts": {"Visuals": "\0"}}},
    {"changes": {"keystep": "\ud800"}},
    {"changes": {"texts": {"\ud800": "x"}}},
    {"rejected": "\ud800"},
]


def test_wrong_types_are_refused_and_change_nothing(place: Place) -> None:
    client, sound = (
        place.visit("Ann"),
        {"number": 1, "changes": PLAIN, "rejected": None, "seconds": 0.25},
    )
    address, headers = (
        f"/annotate/work/{work(client)['assignment']}/submit",
        {"Content-Type": "application/json"},
    )
    before = place.count()
    sent = [json.dumps({**sound, **wrong}).encode() for wrong in WRONG]
    sent += [
        json.dumps(sound).encode().replace(b"0.25", number)
        for number in (b"NaN", b"Infinity", b"1e999")
    ]
    for body in sent:
        assert client.post(address, content=body, headers=headers).status_code in (400, 422), body
    assert place.count() == before


def test_a_file_that_is_no_export_changes_nothing(place: Place) -> None:
    admin = place.visit("admin")
    before = place.count()
    for tasks in (
        [5],
        [{}],
        [{"data": {}, "annotations": [{}]}],
        [[[[]]]],
        "x",
        [{"data": 1}] * 10_001,
    ):
        assert admin.post("/annotate/admin/import", json={"tasks": tasks}).status_code in (400, 422)
    assert place.count() == before


def test_too_many_requests_of_a_person(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # slower than any machine that runs this
    monkeypatch.setattr("stepdiff.app.annotating.service.PERSON_RATE", 1.0)
    place = Place(world, tmp_path)
    ann, bob = place.visit("Ann"), place.visit("Bob")
    own = work(ann)["assignment"]
    codes = [
        ann.post(f"/annotate/work/{own}/save", json={"number": 1, "changes": {}})
        for _ in range(int(PERSON_BURST) * 3)
    ]
    refused = [response for response in codes if response.status_code == 429]
    assert refused and all(1 <= int(response.headers["Retry-After"]) <= 2 for response in refused)
    assert bob.get("/annotate").status_code == 200


def test_nobody_writes_more_than_the_task_allows(world: Path, tmp_path: Path) -> None:
    """Emoji texts of all fields, in turn, are refused in one line once they have the bytes of the
    task."""
    place = Place(world, tmp_path, person_mib=0.5)
    ann, bob = place.visit("Ann"), place.visit("Bob")
    address, statuses = f"/annotate/work/{work(ann)['assignment']}/save", []
    for number in range(1, 50):
        texts = {
            name: chr(0x1F373) * 2000 for name in (CATEGORIES if number % 2 else CATEGORIES[1:])
        }
        response = ann.post(address, json={"number": number, "changes": {"texts": texts}})
        statuses.append(response.status_code)
    assert statuses == sorted(statuses) and statuses.count(413) > 40
    assert response.json()["error"] == (
        "your changes have 0.5 MiB, the most of a person in this task: ask the person who collects "
        "to raise person_mib"
    )
    submission = {"number": 99, "changes": PLAIN, "rejected": None, "seconds": 1.0}
    assert ann.post(address.replace("save", "submit"), json=submission).status_code == 413
    with place.database.read() as connection:
        size = connection.execute(select(func.sum(func.length(events.c.data)))).scalar_one()
    assert size < 0.7 * 2**20
    assert submit(bob).json()["done"], "others go on"


def test_guessing_tokens_is_429_and_people_go_on(place: Place) -> None:
    stranger, ann = place.visit(), place.visit("Ann")
    codes = {
        stranger.get(f"/annotate/as/guess{number}").status_code
        for number in range(int(ADDRESS_BURST) + 20)
    }
    assert codes == {401, 429} and ann.get("/annotate").status_code == 200


def test_names_are_closed_once_somebody_has_a_link(place: Place) -> None:
    client = place.visit()
    assert client.post("/annotate/enter", json={"name": "Eve"}).status_code == 200
    assert client.post("/annotate/enter", json={"name": "admin"}).status_code == 403
    place.token("Ann")
    assert place.visit().post("/annotate/enter", json={"name": "Mallory"}).status_code == 403
    assert place.visit().get("/annotate").json() == {"title": "Annotate", "names_open": False}


def test_a_public_server_has_annotation_pages_only(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path, "https://127.0.0.1")
    clip = place.pairs[0][0]
    for address in (
        "/explore",
        "/pair",
        "/compare",
        "/docs",
        "/openapi.json",
        f"/media/video/{clip}",
        "/redoc",
    ):
        assert place.visit().get(address).status_code == 404, address
    assert place.visit().get("/").headers["location"] == "/annotate"
    closed = ("", "/guidelines", "/admin", "/media/1/left.mp4", "/admin/export/answers")
    for address in (f"/annotate{own}" for own in closed):
        assert place.visit().get(address).status_code == 401, address
    assert place.visit().post("/annotate/enter", json={"name": "Eve"}).status_code == 403
    client = place.visit("Ann")
    assert work(client)["person"] == "Ann"
    response = client.get(f"/annotate/as/{place.token('Ann')}")
    assert {"Secure", "HttpOnly", "SameSite=strict"} <= set(
        response.headers["set-cookie"].split("; ")
    )
    assert [
        link
        for link in ("/explore", "/docs")
        if link in client.get("/annotate", headers={"Accept": "text/html"}).text
    ] == []


def test_the_database_has_no_token(place: Place) -> None:
    token = place.token("Ann")
    client = place.visit()
    client.get(f"/annotate/as/{token}")
    work(client)
    place.database.close()
    content = b"".join(path.read_bytes() for path in place.task.parent.glob("task.db*"))
    assert token.encode() not in content and b"Ann" in content
