"""HT-Step and narrations are read or refused in one line; speech is assigned to clips by time and
by a head."""

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads import train
from heads.data.clip_texts import ClipTexts
from heads.methods.similarity import MODEL, Sentences
from heads.training.checkpoint import Run
from stepdiff.annotate import align
from stepdiff.annotate.align import assigned
from stepdiff.annotate.sources.datasets import (
    TaxonomyStep,
    read_annotations,
    read_splits,
    read_taxonomy,
)
from stepdiff.annotate.sources.narration import (
    UNDECODED,
    UNUSABLE,
    SpeechPiece,
    entries,
    heard,
    read_narration,
)
from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import fingerprint, resolve
from store import Feature, Provenance, Store, text_key
from tests.refusals import refuses

PUBLISHED = Path(__file__).parents[3] / "shared/data/htstep"
TAXONOMY = {3: TaxonomyStep("Make Tea", "Boil the water."), 4: TaxonomyStep("Make Tea", "Serve.")}


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def annotated(segments: str, subset: str = "train", video: str = "a_b-C") -> str:
    return (
        f'{{"{video}": {{"subset": "{subset}", "activity": "Make Tea", "annotations": '
        f"[{segments}]}}}}"
    )


def test_a_clip_id_has_the_seconds_as_the_file_writes_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        annotated('{"id": 3, "segment": [75.29841, 114.30]}, {"id": 4, "segment": [102, 111]}'),
    )
    unusable = Counter[str]()
    rows = read_annotations(path, TAXONOMY, None, unusable)
    about = {"video": "a_b-C", "activity": "Make Tea", "split": "train"}
    first = {
        "clip": "a_b-C_75.29841_114.30",
        "start": 75.29841,
        "end": 114.3,
        "step": "Boil the water.",
        "step_id": 3,
    }
    second = {"clip": "a_b-C_102_111", "start": 102.0, "end": 111.0, "step": "Serve.", "step_id": 4}
    assert rows == [about | first, about | second] and not unusable


def test_a_video_in_two_splits_is_refused(tmp_path: Path) -> None:
    splits = read_splits(
        write(tmp_path / "s.json", {"train": ["a"], "val_seen": ["b"], "test_unseen": ["c"]})
    )
    assert splits == {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(StepDiffError, match="video a is of train and of test"):
        read_splits(write(tmp_path / "t.json", {"train": ["a"], "test_seen": ["a"]}))
    with pytest.raises(StepDiffError, match="subset 'dev' is of none"):
        read_splits(write(tmp_path / "u.json", {"dev": ["a"]}))
    path = write(tmp_path / "a.json", annotated('{"id": 3, "segment": [1, 2]}', video="c"))
    with pytest.raises(StepDiffError, match="video c is of train here and of test in the splits"):
        read_annotations(path, TAXONOMY, splits, Counter())
    path = write(tmp_path / "d.json", annotated('{"id": 3, "segment": [1, 2]}', video="d"))
    with pytest.raises(StepDiffError, match="video d is of train here and of none in the splits"):
        read_annotations(path, TAXONOMY, splits, Counter())


def test_an_unusable_segment_is_counted_with_its_reason(tmp_path: Path) -> None:
    bad = ["[5, 5]", "[7, 5]", "[-1, 5]", "[1e999, 5]", '["x", 5]', "[5]", "null"]
    rows = [f'{{"id": 3, "segment": {segment}}}' for segment in [*bad, "[1, 2]", "[1, 2]"]]
    rows.append('{"id": 99, "segment": [3, 4]}')
    unusable = Counter[str]()
    usable = read_annotations(
        write(tmp_path / "a.json", annotated(", ".join(rows))), TAXONOMY, None, unusable
    )
    assert [row["clip"] for row in usable] == ["a_b-C_1_2"]
    assert unusable == {
        "its segment does not end after its start": 4,
        "its segment is not two numbers": 3,
        "its clip has a step already": 1,
        "its step is not in the taxonomy": 1,
    }


@pytest.mark.full
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": 1}',
        '{"a": {"subset": null, "annotations": []}}',
        '{"a": {"subset": "train"}}',
        '{"a": {"subset": "train", "annotations": [{}]}}',
    ],
)
def test_a_file_that_is_not_annotations_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepDiffError, match=r"a\.json: [^\n]+$"):
        read_annotations(write(tmp_path / "a.json", text), TAXONOMY, None, Counter())


@pytest.mark.full
def test_a_wrong_taxonomy_or_list_of_splits_is_refused(tmp_path: Path) -> None:
    header = "global_step_index,activity,headline\n"
    for text in ("a,b\n1,2\n", header + "x,a,b\n", header + "1,a\n", header + "1,a,b\n1,a,c\n"):
        with pytest.raises(StepDiffError, match=r"t\.csv: [^\n]+$"):
            read_taxonomy(write(tmp_path / "t.csv", text))
    for text in ('{"train": null}', '{"train": [{}]}', '{"night": []}'):
        with pytest.raises(StepDiffError, match=r"s\.json: [^\n]+$"):
            read_splits(write(tmp_path / "s.json", text))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published HT-Step files are not here")
def test_the_published_taxonomy_and_splits_are_read_completely() -> None:
    steps = read_taxonomy(PUBLISHED / "taxonomy.csv")
    rows = list(csv.reader((PUBLISHED / "taxonomy.csv").read_text(encoding="utf-8").splitlines()))
    assert len(steps) == len(rows) - 1 == 4958
    assert steps[0] == TaxonomyStep("Make Pastel De Papa", "Make mashed potatoes.")
    assert Counter(read_splits(PUBLISHED / "video_splits.json").values()) == {
        "train": 17472,
        "val": 1563,
        "test": 1600,
    }


NARRATIONS = {
    "a": [SpeechPiece(0.5, 2.0, "take, the eggs"), SpeechPiece(2.0, 4.25, 'say "whisk"')],
    "b_-1": [SpeechPiece(1.0, 3.0, "now we wait")],
}


def forms(folder: Path) -> list[Path]:
    """Write one narration in each format that has start and end."""
    columns = {
        v: {"start": [p.start for p in s], "end": [p.end for p in s], "text": [p.text for p in s]}
        for v, s in NARRATIONS.items()
    }
    (folder / "caption.json").write_text(json.dumps(columns))
    rows = {
        v: [[1, *piece] for piece in pieces] + [[0, 0.0, 9.0, "subscribe"]]
        for v, pieces in NARRATIONS.items()
    }
    (folder / "htm_align.json").write_text(json.dumps(rows))
    (folder / "csv").mkdir()
    for video, pieces in NARRATIONS.items():
        with (folder / "csv" / f"{video}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("", "start", "end", "text"), *((i, *piece) for i, piece in enumerate(pieces))]
            )
    return [folder / "caption.json", folder / "htm_align.json", folder / "csv"]


def test_all_formats_of_one_narration_give_the_same_speech(tmp_path: Path) -> None:
    for path in forms(tmp_path):
        faults = Counter[str]()
        assert dict(read_narration(path, ["a", "b_-1", "not there"], faults)) == NARRATIONS, path
        assert dict(read_narration(path, ["a"], faults)) == {"a": NARRATIONS["a"]}, path
        assert not +faults


def test_a_sentence_of_one_moment_belongs_to_its_clip(tmp_path: Path) -> None:
    path = tmp_path / "htm_aa_v1.csv"
    path.write_text('vid,timestamp,text\na,9,rest it\nb,4,other\na,4,"knead, a little"\n')
    ((video, pieces),) = read_narration(path, ["a"], Counter())
    assert (video, heard(pieces, 4.0, 9.0), heard(pieces, 2.0, 4.0), heard(pieces, 8.5, 9.5)) == (
        "a",
        "knead, a little",
        "",
        "rest it",
    )


TENTHS = st.integers(0, 80).map(lambda tenth: tenth / 10)


@given(st.lists(st.tuples(TENTHS, TENTHS), max_size=8), TENTHS, st.integers(1, 30))
def test_speech_of_a_clip_is_what_overlaps_it(
    times: list[tuple[float, float]], start: float, tenths: int
) -> None:
    end = (round(start * 10) + tenths) / 10
    pieces = sorted(
        SpeechPiece(*sorted(pair), f"piece{number}") for number, pair in enumerate(times)
    )
    moments = {tenth / 10 + 0.05 for tenth in range(round(start * 10), round(end * 10))}
    expected = [
        piece.text
        for piece in pieces
        if any(piece.start <= moment < piece.end for moment in moments)
        or (piece.start == piece.end and start <= piece.start < end)
    ]
    assert heard(pieces, start, end).split() == expected


def test_pieces_without_text_or_time_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "raw_caption.json"
    texts = ["one", float("nan"), " ", None, 5, "two", "three", "four"]
    times = [1.0, 2.0, 3.0, 4.0, 5.0, None, float("nan"), 0.5]
    path.write_text(
        json.dumps(
            {
                "a": {"start": times, "end": [9.0] * 8, "text": texts},
                "b": {"start": [], "end": [], "text": []},
            }
        )
    )
    faults = Counter[str]()
    found = dict(read_narration(path, ["a", "b"], faults))
    assert found == {"a": [SpeechPiece(0.5, 9.0, "four"), SpeechPiece(1.0, 9.0, "one")], "b": []}
    assert +faults == {UNUSABLE: 6}


def test_a_byte_that_is_not_utf_8_becomes_u_fffd_and_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"start,end,text\n1,2,a caf\xe9 \x00here\n2,3,fine\n")
    faults = Counter[str]()
    assert dict(read_narration(folder, ["a"], faults)) == {
        "a": [SpeechPiece(1, 2, "a caf\ufffd here"), SpeechPiece(2, 3, "fine")]
    }
    assert +faults == {UNDECODED: 1}


@pytest.mark.full
@pytest.mark.parametrize(("indent", "ascii_only"), [(None, False), (1, True)])
def test_entries_are_those_of_json_load(
    tmp_path: Path, indent: int | None, ascii_only: bool
) -> None:
    """The file has more characters than are read at once."""
    draw = random.Random(0)
    value = {
        f'vidé"o {number}': {
            "text": draw.choice(["ä", "🍳", '"', "\\"]) * draw.randrange(9000),
            "n": [number, None],
        }
        for number in range(1500)
    }
    path = tmp_path / "any.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert dict(entries(path)) == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"a": 1', '{"a" 1}', '{"a": 1 "b": 2}', '{"a": tru', '{"a": 1,', '{"a": 1} x'],
)
def test_a_damaged_file_is_refused_at_the_damage(tmp_path: Path, text: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(
        StepDiffError, match="damaged.json: (damaged after entry|not a JSON object)"
    ):
        list(entries(path))


TIMES = st.tuples(st.integers(0, 60), st.integers(1, 10)).map(
    lambda pair: (float(pair[0]), float(sum(pair)))
)
COSINES = st.integers(-100, 100).map(lambda hundredth: hundredth / 100)


@given(
    st.lists(TIMES, max_size=6), st.lists(TIMES, max_size=5), st.integers(0, 15), COSINES, st.data()
)
def test_a_piece_is_assigned_to_the_most_similar_clip_nearby(
    spoken: list[tuple[float, float]],
    clips: list[tuple[float, float]],
    window: int,
    least: float,
    data: st.DataObject,
) -> None:
    pieces = [SpeechPiece(*times, f"p{number}") for number, times in enumerate(sorted(spoken))]
    row = st.lists(COSINES, min_size=len(clips), max_size=len(clips))
    rows = data.draw(st.lists(row, min_size=len(pieces), max_size=len(pieces)))
    cosine = np.array(rows).reshape(len(pieces), len(clips))
    found = assigned(pieces, clips, cosine, float(window), least)
    expected: list[list[str]] = [[] for _ in clips]
    for number, piece in enumerate(pieces):
        near = [
            place
            for place, (start, end) in enumerate(clips)
            if max(start - piece.end, piece.start - end) < window and cosine[number, place] >= least
        ]
        if near:
            expected[max(near, key=lambda place: (cosine[number, place], -place))].append(
                piece.text
            )
    assert found == [" ".join(texts) for texts in expected]


SAID = ("we whisk the eggs now", "chop these onions finely", "pour oil into the pan")
TOKENS, CHANNELS, VIDEOS = 8, 16, 16
World = tuple[Path, list[dict[str, Any]], dict[str, list[SpeechPiece]]]
EARLY = 4.0  # seconds; also the length of a clip


def write_world(folder: Path) -> tuple[Store, list[dict[str, Any]]]:
    """Return a store of videos with three clips each; tokens and narration of a clip encode one of
    SAID."""
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
        store.catalog("clips").append(
            pl.DataFrame([*rows, {**rows[0], "key": "without_tokens_0_1"}])
        )
        planted = rng.standard_normal((3, 1, CHANNELS))
        tokens = planted[about] + 0.3 * rng.standard_normal((len(rows), TOKENS, CHANNELS))
        none = {"layer": "last", "frames": "none", "crop": "none", "dtypes": {}}
        seen = Provenance(encoder="planted", weights="0" * 64, **none)
        view = store.create_view(
            "clips", "planted", seen, {"tokens": Feature((TOKENS, CHANNELS), "float32")}, 64
        )
        view.resize()
        view.write_shard(0, np.arange(len(rows)), {"tokens": tokens.astype(np.float32)}, {})
        store.catalog("texts").append(
            pl.DataFrame({"key": [text_key(text) for text in SAID], "text": SAID})
        )
        words = Provenance(encoder=MODEL, weights=fingerprint(resolve(MODEL)), **none)
        texts = store.create_view(
            "texts", MODEL, words, {"embedding": Feature((768,), "float32")}, 64
        )
        texts.resize()
        texts.write_shard(0, np.arange(3), {"embedding": Sentences()(SAID)}, {})
    return store, rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A folder with a store, a head trained on it and early speech; its clips; the speech by
    video."""
    try:
        resolve(MODEL)
    except StepDiffError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("align")
    store, rows = write_world(folder)
    schedule = {"steps": 60, "learning_rate": 3e-3}
    head: dict[str, Any] = {"view": "planted", "width": 16, "clips": 3, "schedule": schedule}
    head |= {"projector": {"width": 32, "layers": 1, "outputs": 1}}
    recipe = {"store": str(store.path), "out": str(folder / "align"), "contrastive": head}
    (folder / "align.yaml").write_text(json.dumps(recipe))
    assert train.main(["--config", str(folder / "align.yaml")]) == 0
    speech: dict[str, list[SpeechPiece]] = {}
    for row in rows:
        begin = row["start"] - EARLY
        speech.setdefault(row["video"][:-4], []).append(
            SpeechPiece(begin + 0.1, begin + 3.9, row["narration"])
        )
    names = ("start", "end", "text")
    message = {
        video: dict(zip(names, zip(*pieces, strict=True), strict=True))
        for video, pieces in speech.items()
    }
    (folder / "narration.json").write_text(json.dumps(message))
    return folder, rows, speech


def aligned(folder: Path, *more: str) -> list[str]:
    paths = {
        "store": "features",
        "head": "align",
        "narration": "narration.json",
        "out": "said.parquet",
    }
    return [*(f"--{name}={folder / path}" for name, path in paths.items()), *more]


def test_early_speech_is_assigned_to_its_clips(world: World) -> None:
    folder, rows, speech = world
    assert align.main(aligned(folder)) == 0
    given = dict(ClipTexts(folder / "said.parquet").items())
    right = [given.get(row["key"]) == row["narration"] for row in rows]
    by_time = [
        heard(speech[row["video"][:-4]], row["start"], row["end"]) == row["narration"]
        for row in rows
    ]
    assert np.mean(right) > 0.9 and np.mean(by_time) == 0
    # overlaps only the previous clip
    assert align.main(aligned(folder, "--window=0.05", "--least=-1")) == 0
    near = dict(ClipTexts(folder / "said.parquet").items())
    assert all(near.get(row["key"]) != row["narration"] for row in rows)


def test_clips_without_tokens_receive_no_speech(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows, _ = world
    assert align.main(aligned(folder, "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["clips"], record["pieces"]) == (len(rows), len(rows))
    given = dict(ClipTexts(folder / "said.parquet").items())
    assert record["narrated"] == len(given) and "without_tokens_0_1" not in given
    (line,) = ClipTexts(folder / "said.parquet").provenance
    assert json.loads(line)["head"] == fingerprint(
        Run(folder / "align").best() / "head.safetensors"
    )
    assert json.loads(line)["narration"] == fingerprint(folder / "narration.json")
    (folder / "none.json").write_text('{"another video": {"start": [], "end": [], "text": []}}')
    for more, message in (
        ("--window=-1", "--window -1.0 is too small: give 0 or more"),
        (f"--narration={folder}/none.json", "no speech near a clip"),
    ):
        refuses(align.main, aligned(folder, more), capsys, message)
