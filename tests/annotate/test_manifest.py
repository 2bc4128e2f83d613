"""Guarantees of annotate/manifest.py, with the files of the sample world."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from annotate import manifest
from featurize.manifest import read_manifest
from heads.data.hold_out import BY_ID
from kitchen.files.write import write_files
from kitchen.world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of a small world without its pictures."""
    folder = tmp_path_factory.mktemp("kitchen")
    write_files(make_world(12, 0), 0, folder)
    return folder


def options(world: Path, out: Path, **more: str) -> list[str]:
    given = {"annotations": "annotations.json", "taxonomy": "taxonomy.csv", "splits": "video_splits.json"}
    given |= {"narration": "narration.json"}
    paths = {name: str(world / file) for name, file in given.items()}
    return [f"--{name}={value}" for name, value in {**paths, "out": str(out), **more}.items()]


def test_the_files_of_the_sample_world_give_exactly_its_clips(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clips.csv", "clips.parquet", "clips.jsonl"):
        assert manifest.main([*options(world, tmp_path / name), "--json"]) == 0
        found = read_manifest(tmp_path / name).rows
        with (world / "clips.csv").open(newline="") as file:
            expected = list(csv.DictReader(file))
        assert [
            (row["video"], row["start"], row["end"], row["step"], row["activity"], row["split"], row["narration"] or "")
            for row in found.iter_rows(named=True)
        ] == [
            (
                row["video"],
                float(row["start"]),
                float(row["end"]),
                row["step"].capitalize() + ".",
                row["activity"],
                row["split"],
                row["narration"],
            )
            for row in sorted(expected, key=lambda row: (row["video"], float(row["start"])))
        ]
        assert not read_manifest(tmp_path / name).failures
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["clips"], record["videos"], record["unusable"]) == (len(expected), 12, {})
    assert sum(record["splits"].values()) == record["clips"] >= record["narrated"] > 0


def test_unusable_segments_are_counted_by_reason(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = json.loads((world / "annotations.json").read_text())
    first, second = list(annotations)[:2]
    annotations[first]["annotations"][0]["segment"] = [3, 2]
    annotations[second]["annotations"][0]["id"] = 9999
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    narration = {second: {"start": [0.0, None], "end": [99.0, 5.0], "text": ["hello", "no time"]}}
    (tmp_path / "n.json").write_text(json.dumps(narration))
    more = {"annotations": str(tmp_path / "a.json"), "narration": str(tmp_path / "n.json"), "videos": "{video}.webm"}
    assert manifest.main(options(world, tmp_path / "m.parquet", **more)) == 0
    message = capsys.readouterr().out
    assert "left out: 1 x its segment does not end after its start" in message
    assert "left out: 1 x its step is not in the taxonomy" in message
    assert "left out: 1 x pieces without text or time" in message
    found = pl.read_parquet(tmp_path / "m.parquet")
    heard = found.filter(pl.col("narration") != "")
    assert set(heard["video"]) == {f"{second}.webm"} and set(heard["narration"]) == {"hello"}


def test_a_held_out_clip_has_the_split_test_whatever_the_split_of_its_video(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manifest.main(options(world, tmp_path / "m.csv")) == 0
    before = pl.read_csv(tmp_path / "m.csv")
    train = before.filter(split="train")
    first, other = train["video"].unique(maintain_order=True)[:2]
    clip = train.filter(video=first)["clip"][1]
    val = before.filter(split="val")["clip"][0] if "val" in before["split"] else train.filter(video=other)["clip"][0]
    row = {"reference": clip, "targets": [val, "elsewhere_0_1"], "category": "Visuals", "scores": [1, 2]}
    (tmp_path / "diffrank.jsonl").write_text(json.dumps(row))
    videos = before.filter(pl.col("clip").is_in([clip, val]))["video"]
    for by, held in (
        ("video", before.filter(pl.col("video").is_in(videos.implode()))),
        ("clip", before.filter(pl.col("clip").is_in([clip, val]))),
    ):
        more = {"hold-out": str(tmp_path / "diffrank.jsonl"), "hold-out-by": by}
        capsys.readouterr()
        assert manifest.main([*options(world, tmp_path / "held.csv", **more), "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        found = pl.read_csv(tmp_path / "held.csv")
        assert found.drop("split").equals(before.drop("split"))
        is_held = pl.col("clip").is_in(held["clip"].implode())
        expected = before.with_columns(split=pl.when(is_held).then(pl.lit("test")).otherwise("split"))
        assert found.equals(expected) and record["held_out"][BY_ID] == 2
        assert sum(record["held_out"].values()) == held.height == sum(record["held_out_of"].values())
        assert record["held_out_of"] == dict(held["split"].value_counts().iter_rows())
        assert record["splits"] == dict(expected["split"].value_counts().iter_rows())


def test_the_manifest_of_test_sets_has_each_of_their_clips_once_with_the_times_of_its_id(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [row["reference"] for row in map(json.loads, (world / "diffrank_test.jsonl").read_text().splitlines())]
    pairs = [[clips[0], clips[-1]], [clips[-1], clips[0]]] * 2
    choice = {"difference": "a whisk", "category": "Visuals", "options": pairs, "answer": pairs[0]}
    (tmp_path / "diffmcq.jsonl").write_text(json.dumps(choice) + "\n")
    written = [tmp_path / "diffmcq.jsonl", *(world / f"{task}_test.jsonl" for task in ("diffcap", "diffrank"))]
    sets, out = [str(path) for path in written if path.read_text()], tmp_path / "m.csv"
    command = ["--test-sets", *sets, "--out", str(out), "--videos", "videos/{video}.mp4"]
    assert manifest.main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = read_manifest(out).rows
    named = set()
    for line in (line for path in sets for line in Path(path).read_text().splitlines()):
        row = json.loads(line)
        named |= {clip for pair in row.get("options", ()) for clip in pair} | set(row.get("targets", ()))
        named |= {row[name] for name in ("reference", "candidate") if name in row}
    assert set(found["key"]) == named and found.height == len(named) == record["clips"]
    for row in found.iter_rows(named=True):
        video, start, end = row["key"].rsplit("_", 2)
        assert (row["video"], row["start"], row["end"]) == (f"videos/{video}.mp4", float(start), float(end))
    assert set(found["split"]) == {"test"} and "steps" in record
    assert manifest.main([*command, "--annotations", str(world / "annotations.json")]) == 2
    assert "leave out --annotations" in capsys.readouterr().err
    assert manifest.main(["--out", str(out)]) == 2
    assert "give --annotations and --taxonomy of HT-Step, or --test-sets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"out": "m.txt"}, "m.txt: a manifest is"),
        ({"videos": "videos/all.mp4"}, "write {video} in the place"),
        ({"taxonomy": "missing.csv"}, "missing.csv: no taxonomy"),
        ({"narration": "missing.json"}, "missing.json: cannot be read"),
        ({"hold-out": "missing.jsonl"}, "missing.jsonl: no such file"),
    ],
)
def test_unusable_input_is_refused_in_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], message: str
) -> None:
    out = tmp_path / more.get("out", "m.csv")
    assert manifest.main(options(world, out, **{name: more[name] for name in more if name != "out"})) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
