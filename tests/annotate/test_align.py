"""Guarantees of annotate/align.py: a contrastive head trained on planted tokens, and speech that comes too early."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from annotate import align
from annotate.narration import Piece, heard
from heads import train
from heads.clip_texts import ClipTexts
from heads.similarity import MODEL, Sentences
from store import Feature, Provenance, Store, text_key
from weights import WeightsError, fingerprint, resolve

SAID = ("we whisk the eggs now", "chop these onions finely", "pour oil into the pan")
TOKENS, CHANNELS, VIDEOS = 4, 16, 16
EARLY = 4.0  # seconds; a clip lasts as long


def made(folder: Path) -> tuple[Store, list[dict[str, object]]]:
    """A store of videos with three clips each, each about another of SAID, which its tokens and narration tell."""
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


def test_speech_goes_to_the_clips_that_it_is_about_where_time_alone_gives_it_to_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        resolve(MODEL)
    except WeightsError as error:
        pytest.skip(str(error))
    store, rows = made(tmp_path)
    recipe = {
        "store": str(store.path),
        "out": str(tmp_path / "align"),
        "contrastive": {"view": "planted", "width": 16, "clips": 3, "schedule": {"steps": 60, "learning_rate": 3e-3}},
    }
    (tmp_path / "align.yaml").write_text(json.dumps(recipe))
    assert train.main(["--config", str(tmp_path / "align.yaml")]) == 0

    speech: dict[str, list[Piece]] = {}
    for row in rows:
        start = float(row["start"]) - EARLY  # type: ignore[arg-type]
        speech.setdefault(str(row["video"])[:-4], []).append(Piece(start + 0.1, start + 3.9, str(row["narration"])))
    told = {
        v: dict(zip(("start", "end", "text"), zip(*pieces, strict=True), strict=True)) for v, pieces in speech.items()
    }
    (tmp_path / "narration.json").write_text(json.dumps(told))
    options = {"store": store.path, "head": tmp_path / "align", "narration": tmp_path / "narration.json"}
    arguments = [f"--{name}={value}" for name, value in {**options, "out": tmp_path / "said.parquet"}.items()]
    capsys.readouterr()
    assert align.main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["clips"], record["pieces"]) == (len(rows), len(rows))

    texts = ClipTexts(tmp_path / "said.parquet")
    given = dict(texts.items())
    right = [given.get(str(row["key"])) == row["narration"] for row in rows]
    by_time = [heard(speech[str(row["video"])[:-4]], row["start"], row["end"]) == row["narration"] for row in rows]  # type: ignore[arg-type]
    assert np.mean(right) > 0.9 and np.mean(by_time) == 0
    assert json.loads(texts.provenance[0])["window"] == 10.0 and record["narrated"] == len(given)

    assert align.main([*arguments, "--window=0.05"]) == 0  # a piece touches the clip before its own alone
    near = dict(ClipTexts(tmp_path / "said.parquet").items())
    assert all(near.get(str(row["key"])) != row["narration"] for row in rows)
    assert align.main([*arguments, "--window=-1"]) == 1
    assert "give seconds, 0 or more" in capsys.readouterr().err
