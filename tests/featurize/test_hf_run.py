"""Encoder hf from the command line: featurize, then ask the store by words and files, without naming weights again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featurize.encoders import load
from retrieval.__main__ import main as retrieval
from store import Store
from store.io.records import all_writes

from . import hf_models as models

Run = Callable[..., tuple[int, dict[str, object], str]]
Writer = Callable[..., Path]


@pytest.mark.slow
def test_a_store_of_hf_is_asked_by_words_and_files(
    tmp_path: Path, video: Writer, featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The view has the name of the model's folder, its records name weights and choices."""
    source, store, path = video("good.mp4", g=10), tmp_path / "features", tmp_path / "video prism"
    path.mkdir()
    models.shaken(models.VIDEOS["videoprism"](path)).save_pretrained(path)
    rows = [(f"clip_{n}", str(source), n / 2, n / 2 + 0.5) for n in range(4)]
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    given = ["--manifest", tmp_path / "clips.csv", "--store", store, "--encoder", f"hf:{path}"]
    status, summary, message = featurize(*given, "--frames", 8, "--window", 4, "--sampling", "segment-centres")
    assert status == 0 and summary["view"] == "video-prism", message
    view = Store.open(store).view("clips", "video-prism")
    made = view.provenance
    assert (made.encoder, made.layer) == (
        "hf",
        "VideoPrismClipModel: last hidden state, windows of 4 frames; embedding model",
    )
    ((_, (write,)),) = all_writes(view.paths, view.rows_per_shard)
    assert write.info["weights"] == str(path)
    assert write.info["choices"] == {"frames": 8, "window": 4, "sampling": "segment-centres"}

    query = ["query", "--store", str(store), "--view", "video-prism", "-k", "9", "--json"]
    assert retrieval([*query, "--text", "whisk the eggs"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    encoder = load(f"hf:{path}", None, "cpu", frames=8, window=4, sampling="segment-centres")
    keys = [f"clip_{n}" for n in range(4)]
    words = encoder.encode_texts(["whisk the eggs"])["embedding"][0]
    clips = view.read("embedding", keys=keys)
    cosines = dict(zip(keys, (clips @ words / (clips**2).sum(1) ** 0.5).tolist(), strict=True))
    assert {hit["clip"]: hit["similarity"] for hit in hits} == pytest.approx(cosines, abs=1e-5)
    assert retrieval([*query, "--file", str(source), "--start", "0.5", "--end", "1"]) == 0
    best = json.loads(capsys.readouterr().out)["hits"][0]
    assert best["clip"] == "clip_1" and best["similarity"] == pytest.approx(1, abs=1e-4)

    assert featurize(*given, "--frames", 8)[0] == 2  # another layer: the view is refused
    capsys.readouterr()
    shutil.move(path, tmp_path / "moved")
    assert retrieval([*query, "--text", "whisk"]) == 2
    assert f"are not found at {path}: name them with --weights" in capsys.readouterr().err
    assert retrieval([*query, "--text", "whisk", "--weights", str(tmp_path / "moved")]) == 0


@pytest.mark.slow
def test_naflex_views_are_filled_and_asked_by_files(
    tmp_path: Path, video: Writer, featurize: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store, path = video("good.mp4", g=10), tmp_path / "features", tmp_path / "naflex"
    path.mkdir()
    models.shaken(models.NAFLEX["siglip2-naflex"](path)).save_pretrained(path)
    assert featurize(source, "--store", store, "--encoder", f"hf:{path}", "--frames", 2)[0] == 0
    view = Store.open(store).view("clips", "naflex")
    assert view.read("grid", rows=[0]).tolist() == [[3, 5]] and view.features["tokens"].shape == (2 * 16, 24)
    assert retrieval(["query", "--store", str(store), "--view", "naflex", "--file", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["similarity"] == pytest.approx(1, abs=1e-4)
