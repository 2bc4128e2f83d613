"""Queries by a file, with a real encoder and real videos, and contact sheets."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image

from common.errors import StepDiffError
from featurize.encoders import load
from featurize.plan import Task
from featurize.shard import featurize_shard
from featurize.video.decode import Source
from retrieval.__main__ import main
from retrieval.queries import search
from retrieval.queries.search import of_file
from retrieval.queries.sheet import tile
from store import Store, View
from weights import resolve

Fill = Callable[..., View]
ENCODER = "efficientnet-lite0"
CLIPS = [("stripes", 0.0, 1.0), ("stripes", 1.0, 2.0), ("blobs", 0.0, 1.0), ("blobs", 1.0, 2.0)]


def write_video(path: Path, name: str, crf: int = 18, size: tuple[int, int] = (160, 120)) -> Path:
    """Write two seconds of moving stripes or blobs, which change their colours after the first second."""
    width, height = size
    y, x = np.mgrid[:height, :width] / height
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": str(crf)}
        for at in range(20):
            wave = np.sin(20 * x + at) if name == "stripes" else np.sin(9 * x + at) * np.sin(9 * y)
            colour = (230, 60, 40) if at < 10 else (40, 200, 220)
            picture = ((wave[..., None] > 0) * np.array(colour) + 20).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store with four clips of two videos, written by featurize, and the folder of the videos."""
    try:
        resolve(ENCODER)
    except StepDiffError as problem:
        pytest.skip(str(problem))
    folder = tmp_path_factory.mktemp("filmed")
    store, encoder = Store.open(folder / "features", create=True), load(ENCODER, device="cpu")
    rows = [
        {"key": f"{name}_{start:g}_{end:g}", "video": f"{name}.mp4", "start": start, "end": end, "step": "<b>chop</b>"}
        for name, start, end in CLIPS
    ]
    for name in ("stripes", "blobs"):
        write_video(folder / f"{name}.mp4", name)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame(rows))
        store.create_view("clips", ENCODER, encoder.provenance("clips"), encoder.features("clips"), 4).resize()
    sources = {at: Source(str(folder / f"{name}.mp4"), start, end) for at, (name, start, end) in enumerate(CLIPS)}
    task = Task(str(store.path), "clips", ENCODER, 0, (0, 1, 2, 3), {}, 4, sources)
    assert featurize_shard(task, encoder, "cpu", lambda _: None).error is None
    return store, folder


def nearest(store: Store, file: Path, k: int, start: float | None = None, end: float | None = None) -> pl.DataFrame:
    """Return the clips nearest to a file."""
    source = partial(of_file, file=file, span=(start, end), weights=None)
    return search.compute(search.resolve(store, store.view("clips", ENCODER), source), k)


def test_a_file_is_nearest_to_its_own_clip(filmed: tuple[Store, Path], tmp_path: Path) -> None:
    """A span of a file is nearest to its own clip, with cosine 1; so are a compressed copy of the video and a still."""
    store, folder = filmed
    for name, start, end in CLIPS[1:3]:
        hits = nearest(store, folder / f"{name}.mp4", 4, start, end)
        assert hits["clip"][0] == f"{name}_{start:g}_{end:g}"
        assert hits["similarity"][0] == pytest.approx(1, abs=1e-5) and hits["similarity"][1] < 0.99
    copy = write_video(tmp_path / "copy.mp4", "blobs", crf=28, size=(96, 72))
    hits = nearest(store, copy, 1, end=1.0)
    assert hits["clip"][0] == "blobs_0_1" and 0.9 < hits["similarity"][0] < 0.9999
    with av.open(str(folder / "stripes.mp4")) as video:
        frame = list(video.decode(video=0))[15]
    frame.to_image().save(tmp_path / "still.png")
    hits = nearest(store, tmp_path / "still.png", 1)
    assert hits["clip"][0] == "stripes_1_2"


def test_a_file_that_cannot_be_encoded_like_the_view_is_refused(
    filmed: tuple[Store, Path], tmp_path: Path, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = filmed
    (tmp_path / "words.txt").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((folder / "blobs.mp4").read_bytes()[:900])
    other = Store.open(tmp_path / "other", create=True)
    fill(other, np.eye(2, dtype=np.float32), ["a_0_1", "b_0_1"], "aligned", encoder="head over tiny")
    made = store.view("clips", ENCODER)
    with other.lock():
        changed = replace(made.provenance, weights="0" * 64)
        other.create_view("clips", "old", changed, made.features, 4).resize()
        vectors = {name: np.ones((2, *one.shape), np.float32) for name, one in made.features.items()}
        other.view("clips", "old").write_shard(0, np.arange(2), vectors, {})
    video = folder / "blobs.mp4"
    refused = {
        (store.path, ENCODER, tmp_path / "none.mp4"): "no video",
        (store.path, ENCODER, tmp_path / "words.txt"): "is not a video in a known format",
        (store.path, ENCODER, tmp_path / "cut.mp4"): "cut.mp4",
        (other.path, "aligned", video): "view clips/aligned was made by a head over tiny, not by an encoder of files",
        (other.path, "old", video): "the weights of view clips/old (efficientnet-lite0, sha256 000000000000) are not "
        "found: name them with --weights",
    }
    for (path, view, file), why in refused.items():
        assert main(["query", "--store", str(path), "--view", view, "--file", str(file), "-k", "1"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and why in err
    assert main(["query", "--store", str(store.path), "--view", ENCODER, "--file", str(video), "--start", "7"]) == 2
    assert "the clip begins at 7 s" in capsys.readouterr().err


MEAN_COLOUR = """
from featurize.encoders import Encoder
from store import Feature

class MeanColour(Encoder):
    name, entities, layer, size, short_side = "mean-colour", ("clips",), "mean colour", 32, 32

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        self.check_entity(entity)
        return {"embedding": Feature((3,), "float32")}

    def encode_clips(self, frames):
        return {"embedding": frames.mean((1, 2, 3)).astype("float32")}
"""


def test_a_file_queries_a_view_of_a_plugin_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder is found by the name that provenance records, which is not that of its entry point."""
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mean_colour.py").write_text(MEAN_COLOUR)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "none.txt").write_text("none")
    store, keys = Store.open(tmp_path / "store", create=True), ["stripes_0_1", "stripes_1_2"]
    rows = [{"key": key, "video": "stripes.mp4", "start": float(at), "end": at + 1.0} for at, key in enumerate(keys)]
    video = write_video(tmp_path / "stripes.mp4", "stripes")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load("mean_colour:MeanColour", str(tmp_path / "weights"), "cpu")
    with store.lock():
        store.catalog("clips").append(pl.DataFrame(rows))
        store.create_view("clips", "mean-colour", encoder.provenance("clips"), encoder.features("clips"), 4).resize()
    sources = {at: Source(str(video), float(at), at + 1.0) for at in range(2)}
    task = Task(str(store.path), "clips", "mean-colour", 0, (0, 1), {}, 2, sources)
    featurize_shard(task, encoder, "cpu", lambda _: None)
    query = ["query", "--store", str(store.path), "--view", "mean-colour", "--file", str(video), "--start", "1"]
    query += ["--weights", str(tmp_path / "weights"), "-k", "1", "--json"]
    assert main(query) == 2
    assert "view clips/mean-colour was made by a mean-colour, not by an encoder of files" in capsys.readouterr().err
    (installed / "entry_points.txt").write_text("[stepdiff.encoders]\nmine = mean_colour:MeanColour\n")
    assert main(query) == 0
    assert "stripes_1_2" in capsys.readouterr().out


class Page(HTMLParser):
    """The pictures, tags and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[Image.Image] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        for name, value in attrs:
            if name == "src" and (value or "").startswith("data:image/jpeg;base64,"):
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(str(value).split(",")[1]))))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_contact_sheet_is_self_contained(
    filmed: tuple[Store, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = filmed
    words = ["query", "--store", str(store.path), "--view", ENCODER, "-k", "2", "--html", str(tmp_path / "sheet.html")]
    assert main([*words, "--clip", "stripes_0_1", "--videos", str(folder)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'sheet.html'}: 2 clips nearest to clip stripes_0_1 in {ENCODER}\n"
    text = (tmp_path / "sheet.html").read_text()
    page = Page(text)
    assert len(page.pictures) == 9 and {picture.size for picture in page.pictures} == {(192, 192)}
    assert all(address.startswith("data:") for address in page.addresses) and "url(" not in text
    assert "http" not in text and not {"script", "link", "b"} & set(page.tags)
    assert page.tags.count("figure") == 3 and "<b>chop</b>" in page.words and "0.00 to 1.00 s" in page.words
    seen = [np.asarray(picture).mean(axis=(0, 1)) for picture in page.pictures]
    assert all(red > 1.5 * blue for red, _, blue in seen[:3])  # the first second of the same video
    assert main([*words, "--file", str(folder / "blobs.mp4"), "--videos", str(folder)]) == 0
    assert len(Page((tmp_path / "sheet.html").read_text()).pictures) == 9


def test_a_missing_video_is_shown_as_a_grey_tile(filmed: tuple[Store, Path], tmp_path: Path) -> None:
    store, folder = filmed
    words = ["query", "--store", str(store.path), "--view", ENCODER, "-k", "3", "--html", str(tmp_path / "sheet.html")]
    (tmp_path / "stripes.mp4").write_bytes((folder / "stripes.mp4").read_bytes())
    assert main([*words, "--clip", "stripes_0_1", "--videos", str(tmp_path)]) == 0
    page = Page((tmp_path / "sheet.html").read_text())
    assert len(page.pictures) == 6
    assert page.words.count(f"{tmp_path / 'blobs.mp4'} does not exist") == 2


def test_an_unreadable_file_is_reported_in_its_own_tile(tmp_path: Path) -> None:
    known = {"start": 0.0, "end": 1.0}
    Image.new("1", (2_000_000, 1)).save(tmp_path / "narrow.png")
    odd = tile("odd", {"video": "nul\0.mp4", **known}, tmp_path)
    assert str(odd.pictures).endswith("nul\\x00.mp4' cannot name a file (embedded null byte): correct the path")
    narrow = tile("narrow", {"video": "narrow.png", **known}, tmp_path)
    assert "a picture of 2000000 x 1 is too narrow" in str(narrow.pictures)
    write_video(tmp_path / "stripes.mp4", "stripes")
    assert np.shape(tile("good", {"video": "stripes.mp4", **known}, tmp_path).pictures) == (3, 192, 192, 3)
