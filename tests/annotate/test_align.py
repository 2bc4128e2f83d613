"""Guarantees of annotate/align.py, with a contrastive head trained on planted tokens and speech that is too early."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from annotate import align
from annotate.sources.narration import Piece, heard
from common.errors import StepDiffError
from heads import train
from heads.data.clip_texts import ClipTexts
from heads.methods.similarity import MODEL, Sentences
from heads.training.checkpoint import Run
from store import Feature, Provenance, Store, text_key
from weights import fingerprint, resolve

SAID = ("we whisk the eggs now", "chop these onions finely", "pour oil into the pan")
TOKENS, CHANNELS, VIDEOS = 8, 16, 16
World = tuple[Path, list[dict[str, Any]], dict[str, list[Piece]]]
EARLY = 4.0  # seconds; also the length of a clip


def made(folder: Path) -> tuple[Store, list[dict[str, Any]]]:
    """Return a store of videos with three clips each; tokens and narration of a clip encode one of SAID."""
    rng = np.random.default_rng(0)
    rows, about = [], []
    for video in range(VIDEOS):
        for place, subject in enumerate(rng.permutation(3).tolist()):
            start = 5.0 + 4 * place
            about.append(subject)
            rows.append(
                {
                    "key": f"v{video}_{start}_{start + 4}",
                    "video": f"v{video}.mp4",
                    "start": start,
                    "end": start + 4,
                    "split": "train" if video < VIDEOS - 3 else "val",
                    "narration": SAID[subject],
                }
            )
    store = Store.open(folder / "features", create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame([*rows, {**rows[0], "key": "without_tokens_0_1"}]))
        planted = rng.standard_normal((3, 1, CHANNELS))
        tokens = planted[about] + 0.3 * rng.standard_normal((len(rows), TOKENS, CHANNELS))
        none = {"layer": "last", "frames": "none", "crop": "none", "dtypes": {}}
        seen = Provenance(encoder="planted", weights="0" * 64, **none)
        view = store.create_view("clips", "planted", seen, {"tokens": Feature((TOKENS, CHANNELS), "float32")}, 64)
        view.resize()
        view.write_shard(0, np.arange(len(rows)), {"tokens": tokens.astype(np.float32)}, {})
        store.catalog("texts").append(pl.DataFrame({"key": [text_key(text) for text in SAID], "text": SAID}))
        words = Provenance(encoder=MODEL, weights=fingerprint(resolve(MODEL)), **none)
        texts = store.create_view("texts", MODEL, words, {"embedding": Feature((768,), "float32")}, 64)
        texts.resize()
        texts.write_shard(0, np.arange(3), {"embedding": Sentences()(SAID)}, {})
    return store, rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A folder with a store, a head trained on it and early speech; its clips; the speech by video."""
    try:
        resolve(MODEL)
    except StepDiffError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("align")
    store, rows = made(folder)
    schedule = {"steps": 60, "learning_rate": 3e-3}
    head: dict[str, Any] = {"view": "planted", "width": 16, "clips": 3, "schedule": schedule}
    head |= {"projector": {"width": 32, "layers": 1, "outputs": 1}}
    recipe = {"store": str(store.path), "out": str(folder / "align"), "contrastive": head}
    (folder / "align.yaml").write_text(json.dumps(recipe))
    assert train.main(["--config", str(folder / "align.yaml")]) == 0
    speech: dict[str, list[Piece]] = {}
    for row in rows:
        begin = row["start"] - EARLY
        speech.setdefault(row["video"][:-4], []).append(Piece(begin + 0.1, begin + 3.9, row["narration"]))
    names = ("start", "end", "text")
    message = {video: dict(zip(names, zip(*pieces, strict=True), strict=True)) for video, pieces in speech.items()}
    (folder / "narration.json").write_text(json.dumps(message))
    return folder, rows, speech


def aligned(folder: Path, *more: str) -> list[str]:
    paths = {"store": "features", "head": "align", "narration": "narration.json", "out": "said.parquet"}
    return [*(f"--{name}={folder / path}" for name, path in paths.items()), *more]


def test_early_speech_is_assigned_to_the_clips_that_it_is_about(
    world: World,
) -> None:
    folder, rows, speech = world
    assert align.main(aligned(folder)) == 0
    given = dict(ClipTexts(folder / "said.parquet").items())
    right = [given.get(row["key"]) == row["narration"] for row in rows]
    by_time = [heard(speech[row["video"][:-4]], row["start"], row["end"]) == row["narration"] for row in rows]
    assert np.mean(right) > 0.9 and np.mean(by_time) == 0
    assert align.main(aligned(folder, "--window=0.05", "--least=-1")) == 0  # overlaps only the previous clip
    near = dict(ClipTexts(folder / "said.parquet").items())
    assert all(near.get(row["key"]) != row["narration"] for row in rows)


def test_clips_without_tokens_receive_no_speech(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder, rows, _ = world
    assert align.main(aligned(folder, "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["clips"], record["pieces"]) == (len(rows), len(rows))
    given = dict(ClipTexts(folder / "said.parquet").items())
    assert record["narrated"] == len(given) and "without_tokens_0_1" not in given


def test_the_texts_record_the_head_narration_window_and_least_cosine_that_made_them(
    world: World,
) -> None:
    folder, _, _ = world
    assert align.main(aligned(folder, "--window=5", "--least=-1")) == 0
    (line,) = ClipTexts(folder / "said.parquet").provenance
    weights = fingerprint(Run(folder / "align").best() / "head.safetensors")
    said = fingerprint(folder / "narration.json")
    assert json.loads(line) == {"head": weights, "narration": said, "window": 5.0, "least": -1.0}


def test_unusable_input_is_refused_in_one_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = world
    (folder / "none.json").write_text('{"another video": {"start": [], "end": [], "text": []}}')
    for more, message in (
        ("--window=-1", "give seconds, 0 or more"),
        (f"--narration={folder}/none.json", "no speech near a clip"),
    ):
        assert align.main(aligned(folder, more)) == 2
        error = capsys.readouterr().err
        assert message in error.splitlines()[-1]
