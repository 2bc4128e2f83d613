"""stepdiff annotate manifest: HT-Step, test sets, benchmarks, data sets, images and sentences."""

import csv
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from featurize.manifest import read_manifest
from heads.data.hold_out import BY_ID
from stepdiff.annotate import manifest
from stepdiff.annotate.sources import datasets, images
from stepdiff.kitchen.files.write import write_files
from stepdiff.kitchen.world import make_world
from stepdiff_core.errors import StepDiffError
from tests.annotate.test_audit import write_video
from tests.refusals import refuses
from tests.tasks.viddiff_files import benchmark


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of a small world without its pictures."""
    folder = tmp_path_factory.mktemp("kitchen")
    write_files(make_world(12, 0), 0, folder)
    return folder


def options(world: Path, out: Path, **more: str) -> list[str]:
    given = {
        "annotations": "annotations.json",
        "taxonomy": "taxonomy.csv",
        "splits": "video_splits.json",
    }
    given |= {"narration": "narration.json"}
    paths = {name: str(world / file) for name, file in given.items()}
    return [f"--{name}={value}" for name, value in {**paths, "out": str(out), **more}.items()]


def test_the_clips_of_the_sample_world(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clips.csv", "clips.parquet", "clips.jsonl"):
        assert manifest.main([*options(world, tmp_path / name), "--json"]) == 0
        found = read_manifest(tmp_path / name).rows
        with (world / "clips.csv").open(newline="") as file:
            expected = list(csv.DictReader(file))
        assert [
            (
                row["video"],
                row["start"],
                row["end"],
                row["step"],
                row["activity"],
                row["split"],
                row["narration"] or "",
            )
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


def test_unusable_segments_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = json.loads((world / "annotations.json").read_text())
    first, second = list(annotations)[:2]
    annotations[first]["annotations"][0]["segment"] = [3, 2]
    annotations[second]["annotations"][0]["id"] = 9999
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    narration = {second: {"start": [0.0, None], "end": [99.0, 5.0], "text": ["hello", "no time"]}}
    (tmp_path / "n.json").write_text(json.dumps(narration))
    more = {
        "annotations": str(tmp_path / "a.json"),
        "narration": str(tmp_path / "n.json"),
        "videos": "{video}.webm",
    }
    assert manifest.main(options(world, tmp_path / "m.parquet", **more)) == 0
    message = capsys.readouterr().out
    assert "left out: 1 x its segment does not end after its start" in message
    assert "left out: 1 x its step is not in the taxonomy" in message
    assert "left out: 1 x pieces without text or time" in message
    found = pl.read_parquet(tmp_path / "m.parquet")
    heard = found.filter(pl.col("narration") != "")
    assert set(heard["video"]) == {f"{second}.webm"} and set(heard["narration"]) == {"hello"}


def test_held_out_clips_have_the_split_test(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manifest.main(options(world, tmp_path / "m.csv")) == 0
    before = pl.read_csv(tmp_path / "m.csv")
    train = before.filter(split="train")
    first, other = train["video"].unique(maintain_order=True)[:2]
    clip = train.filter(video=first)["clip"][1]
    val = (
        before.filter(split="val")["clip"][0]
        if "val" in before["split"]
        else train.filter(video=other)["clip"][0]
    )
    row = {
        "reference": clip,
        "targets": [val, "elsewhere_0_1"],
        "category": "Visuals",
        "scores": [1, 2],
    }
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
        expected = before.with_columns(
            split=pl.when(is_held).then(pl.lit("test")).otherwise("split")
        )
        assert found.equals(expected) and record["held_out"][BY_ID] == 2
        assert (
            sum(record["held_out"].values()) == held.height == sum(record["held_out_of"].values())
        )
        assert record["held_out_of"] == dict(held["split"].value_counts().iter_rows())
        assert record["splits"] == dict(expected["split"].value_counts().iter_rows())


def test_a_manifest_of_test_sets(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [
        row["reference"]
        for row in map(json.loads, (world / "diffrank_test.jsonl").read_text().splitlines())
    ]
    pairs = [[clips[0], clips[-1]], [clips[-1], clips[0]]] * 2
    choice = {"difference": "a whisk", "category": "Visuals", "options": pairs, "answer": pairs[0]}
    (tmp_path / "diffmcq.jsonl").write_text(json.dumps(choice) + "\n")
    written = [
        tmp_path / "diffmcq.jsonl",
        *(world / f"{task}_test.jsonl" for task in ("diffcap", "diffrank")),
    ]
    sets, out = [str(path) for path in written if path.read_text()], tmp_path / "m.csv"
    command = ["--test-sets", *sets, "--out", str(out), "--videos", "videos/{video}.mp4"]
    assert manifest.main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = read_manifest(out).rows
    named = set()
    for line in (line for path in sets for line in Path(path).read_text().splitlines()):
        row = json.loads(line)
        named |= {clip for pair in row.get("options", ()) for clip in pair} | set(
            row.get("targets", ())
        )
        named |= {row[name] for name in ("reference", "candidate") if name in row}
    assert set(found["key"]) == named and found.height == len(named) == record["clips"]
    for row in found.iter_rows(named=True):
        video, start, end = row["key"].rsplit("_", 2)
        assert (row["video"], row["start"], row["end"]) == (
            f"videos/{video}.mp4",
            float(start),
            float(end),
        )
    assert set(found["split"]) == {"test"} and "steps" in record
    more = ["--annotations", str(world / "annotations.json")]
    refuses(manifest.main, [*command, *more], capsys, "leave out --annotations")


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
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, str],
    message: str,
) -> None:
    out = tmp_path / more.get("out", "m.csv")
    command = options(world, out, **{name: more[name] for name in more if name != "out"})
    refuses(manifest.main, command, capsys, message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "give --annotations and --taxonomy of HT-Step, or --test-sets"),
        (["--benchmark", "crossvid-cc"], "--benchmark crossvid-cc needs --data"),
        (["--benchmark", "crossvid"], "no such task; give one of "),
        (["--data", "x"], "--data is the folder of a --benchmark"),
        (
            ["--benchmark", "crossvid-cc", "--data", "x", "--taxonomy", "t.csv"],
            "leave out --taxonomy",
        ),
        (["--benchmark", "crossvid-cc", "--data", "x", "--texts"], "x/QA/CC.json: no such file"),
        (
            ["--sentences", "s.json", "--annotations", "a.json", "--taxonomy", "t.csv"],
            "is a manifest of its own",
        ),
        (
            ["--sentences", "s.json", "--data", "d"],
            "--sentences does not use all of these options; leave out --data",
        ),
        (["--sentences", "s.json", "--videos", "videos"], "write {video} in the place"),
        (["--images", "a.tar", "--videos", "{video}"], "leave out --videos"),
        (["--images", "a.txt"], "a.txt: neither a .tar file nor a .parquet"),
        (["--images", "gone-{0..2}.tar"], "gone-0.tar: no such file; correct --images"),
        (["--dataset", "captaincook"], "--dataset captaincook needs --data"),
        (["--dataset", "ego", "--data", "d"], "no such dataset; known: captaincook, egoexo-exo"),
        (["--dataset", "egoexo-exo", "--data", "d"], "d/takes.json: no such file"),
    ],
)
def test_options_of_another_source_are_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(manifest.main, [*given, "--out", str(tmp_path / "m.parquet")], capsys, said)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CrossVid's CC with a question about three videos: of two seconds, missing, and damaged."""
    folder = tmp_path / "crossvid"
    (folder / "QA").mkdir(parents=True)
    question = {
        "id": 0,
        "videos": ["a/whole.mp4", "missing.mp4", "damaged.mp4"],
        "question": "Which?",
        "answer": "B",
    }
    (folder / "QA/CC.json").write_text(json.dumps([question | {"options": ["A. One.", "B. Two."]}]))
    return folder


def place(folder: Path, name: str) -> Path:
    """Return where the manifest expects a video."""
    path = folder / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_missing_video_is_listed_and_its_clips_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(place(folder, "a/whole.mp4"), [(255, 0, 0), (0, 0, 255)])
    place(folder, "damaged.mp4").write_bytes(b"no video")
    out = folder / "cc.parquet"
    command = ["--benchmark", "crossvid-cc", "--data", str(folder), "--out", str(out)]
    assert manifest.main([*command, "--json"]) == 0
    of = json.loads(capsys.readouterr().out)["benchmark"]
    assert (of["clips"], of["videos"]) == (3, 3)
    assert [Path(video).name for video in of["missing"]] == ["missing.mp4"]
    assert [Path(video).name for video in of["unreadable"]] == ["damaged.mp4"]
    (row,) = pl.read_parquet(out).to_dicts()
    assert (row["clip"], row["start"], row["end"], row["split"]) == ("a/whole", 0.0, 2.0, "test")
    asked = read_manifest(out)
    assert asked.paths[row["video"]].samefile(place(folder, "a/whole.mp4")) and not asked.failures
    assert manifest.main(command) == 0
    printed = capsys.readouterr().out
    assert "crossvid-cc: 1 of 3 videos (33.3%) are on disk" in printed
    assert "missing: 1 videos, e.g. videos/missing.mp4" in printed


def test_without_any_video_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "cc.parquet"
    command = ["--benchmark", "crossvid-cc", "--data", str(folder), "--out", str(out)]
    refuses(manifest.main, command, capsys, "none of the 3 videos of CrossVid CC")
    assert not out.exists()


@pytest.mark.full
def test_no_published_file_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = benchmark(tmp_path / "viddiff")
    (published,) = data.iterdir()
    before, given = (
        published.read_bytes(),
        ["--benchmark", "viddiff-closed", "--data", str(data), "--texts"],
    )
    overwriting = "would overwrite a file of --data; name another --out"
    refuses(manifest.main, [*given, "--out", str(published)], capsys, overwriting)
    assert published.read_bytes() == before
    for _ in range(2):
        assert manifest.main([*given, "--out", str(data / "texts.parquet")]) == 0


def test_the_texts_of_a_benchmark_are_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = benchmark(tmp_path / "viddiff"), tmp_path / "texts.parquet"
    assert (
        manifest.main(
            ["--benchmark", "viddiff-closed", "--data", str(data), "--texts", "--out", str(out)]
        )
        == 0
    )
    asked = read_manifest(out)
    assert asked.entity == "texts" and "statement 0 of 0" in asked.rows["text"].to_list()
    assert f"{out}: {asked.rows.height} texts" in capsys.readouterr().out


SEQUENCE = "nusar-2021_action_both_9033-a30_9033_user_id_2021-02-04_131528"
FINE = (
    "id,video,start_frame,end_frame,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls,toy_id,toy_name,is_shared,is_RGB\n"
    f"7,{SEQUENCE}/C10404_rgb.mp4,84,111,10,18,0,clap hand,clap,hand,a30,suv,0,1\n"
    f"8,{SEQUENCE}/C10404_rgb.mp4,84,111,11,18,1,clap both hands,clap,hand,a30,suv,0,1\n"
    f"9,{SEQUENCE}/HMC_21176875_mono10bit.mp4,9,9,11,18,1,nothing,clap,hand,a30,suv,0,0\n"
    f"5,{SEQUENCE}/C10404_rgb.mp4,0,30,380,7,22,remove excavator arm,remove,excavator "
    "arm,a30,suv,0,1\n"
)


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def captaincook(tmp_path: Path) -> Path:
    right = {"step_id": 3, "description": "Add-1 egg", "start_time": 0.5, "end_time": 9}
    wrong = (
        {"tag": "Technique Error", "description": "Shell in the bowl"},
        {"tag": "Other", "description": "spilled"},
    )
    steps = [
        right,
        {**right, "step_id": 4, "start_time": 9, "end_time": 12.25, "errors": list(wrong)},
    ]
    steps.append({"step_id": 5, "description": "Whisk-Whisk it", "start_time": -1, "end_time": -1})
    recordings = [
        {
            "recording_id": f"1_{number}",
            "activity_id": 1,
            "is_error": True,
            "step_annotations": steps,
        }
        for number in (7, 8, 9)
    ]
    put(tmp_path / "annotation_json/error_annotations.json", recordings)
    split = {"train": ["1_7"], "val": ["1_8"], "test": ["1_9"]}
    put(tmp_path / "data_splits/recordings_data_split_combined.json", split)
    return tmp_path


def comment(time: float, text: object, error: bool = False) -> dict[str, Any]:
    return {
        "recording": "0.webm",
        "duration_approx": 9.5,
        "video_time": time,
        "error": error,
        "text": text,
    }


@pytest.fixture
def egoexo(tmp_path: Path) -> Path:
    videos = "frame_aligned_videos"
    take = {
        "take_uid": "uid-1",
        "take_name": "unc_basketball_1",
        "root_dir": "takes/unc_basketball_1",
        "best_exo": "cam02",
        videos: {
            "aria02": {"rgb": {"relative_path": f"{videos}/aria02_214-1.mp4"}},
            "cam01": {"0": {"relative_path": f"{videos}/cam01.mp4"}},
            "cam02": {"0": {"relative_path": f"{videos}/cam02.mp4"}},
        },
    }
    put(tmp_path / "takes.json", [take, {**take, "take_uid": "uid-2", "best_exo": None}])
    said = [
        comment(12.25, "Good\n balance"),
        comment(3, "early"),
        comment(20, "noise", True),
        comment(21, None),
    ]
    train = [
        {
            "take_name": "unc_basketball_1",
            "task_name": "Reverse Layup",
            "commentary": "x",
            "commentary_data": said,
        }
    ]
    train.append(
        {
            **train[0],
            "commentary_data": [comment(12.25, "A second expert"), comment(0, "nothing yet")],
        }
    )
    put(
        tmp_path / "annotations/expert_commentary_train.json",
        {"annotations": {"uid-1": train, "gone": train}},
    )
    val = [{**train[0], "commentary_data": [comment(9, "fine")]}]
    put(tmp_path / "annotations/expert_commentary_val.json", {"annotations": {"uid-2": val}})
    return tmp_path


@pytest.fixture
def assembly(tmp_path: Path) -> Path:
    put(tmp_path / "fine-grained-annotations/train.csv", FINE)
    put(tmp_path / "fine-grained-annotations/validation.csv", FINE.replace("9033", "9044"))
    coarse = tmp_path / "coarse-annotations"
    for part, name in (("train", f"assembly_{SEQUENCE}"), ("test", f"disassembly_{SEQUENCE}")):
        kinds = ["assembly", "disassembly"] if part == "train" else ["disassembly"]
        for kind in kinds:
            toy = "\ta30\tsuv" if part != "test" else ""
            line = f"{name}.txt\tnotshared{toy}\n" if name.startswith(kind) else ""
            put(coarse / f"coarse_splits/{part}_coarse_{kind}.txt", line)
        action = "\tattempt to screw chassis" if part == "train" else ""
        put(coarse / f"coarse_labels/{name}.txt", f"000000030\t000000075{action}\n")
    views = [f"assembly_{SEQUENCE}/C10404_rgb.mp4", f"assembly_{SEQUENCE}/C10115_rgb.mp4"]
    put(
        coarse / "coarse_seq_views.txt",
        "\n".join([*views, f"disassembly_{SEQUENCE}/C10404_rgb.mp4"]) + "\n",
    )
    return tmp_path


def test_each_dataset_gives_the_clips_of_its_published_files(captaincook: Path) -> None:
    record, clips = run_manifest(
        captaincook, "dataset", "captaincook", "data", str(captaincook), "on_disk", False
    )
    assert clips["split"].to_list() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert clips.head(2).drop("split").rows() == [
        ("1_7_0.5_9", "1_7_360p.mp4", 0.5, 9.0, "Add 1 egg", "3", "1", ""),
        (
            "1_7_9_12.25",
            "1_7_360p.mp4",
            9.0,
            12.25,
            "Add 1 egg",
            "4",
            "1",
            "Shell in the bowl spilled",
        ),
    ]
    assert clips.columns[5:] == ["step", "step_id", "activity", "mistakes"]
    assert record["unusable"] == {"skipped steps": 3} and record["steps"] == 2


def test_an_expert_speaks_about_the_seconds_before_the_moment(egoexo: Path) -> None:
    record, clips = run_manifest(
        egoexo, "dataset", "egoexo-exo", "data", str(egoexo), "on_disk", False
    )
    video = "takes/unc_basketball_1/frame_aligned_videos/cam02"
    assert clips.rows() == [
        (
            "unc_basketball_1/cam02_0.0_3.0",
            f"{video}.mp4",
            0.0,
            3.0,
            "train",
            "Reverse Layup",
            "early",
        ),
        (
            "unc_basketball_1/cam02_4.25_12.25",
            f"{video}.mp4",
            4.25,
            12.25,
            "train",
            "Reverse Layup",
            "Good balance A second expert",
        ),
    ]
    assert record["unusable"] == {
        "takes without this view": 2,
        "comments without a transcript": 2,
        "comments before the video": 1,
    }
    _, ego = run_manifest(
        egoexo, "dataset", "egoexo-ego", "data", str(egoexo), "on_disk", False, "seconds", 2.0
    )
    assert ego["split"].to_list() == ["train", "train", "val"]
    assert ego["video"].unique().to_list() == [f"{video.replace('cam02', 'aria02_214-1')}.mp4"]
    assert ego.select("start", "end").rows() == [(1.0, 3.0), (10.25, 12.25), (7.0, 9.0)]
    larger = ("videos", "{folder}/downscaled/448/{name}")
    _, small = run_manifest(
        egoexo, "dataset", "egoexo-exo", "data", str(egoexo), "on_disk", False, *larger
    )
    assert (
        small["video"][0] == "takes/unc_basketball_1/frame_aligned_videos/downscaled/448/cam02.mp4"
    )


def test_two_actions_of_one_interval_are_one_clip(assembly: Path) -> None:
    record, clips = run_manifest(
        assembly, "dataset", "assembly101-fine", "data", str(assembly), "on_disk", False
    )
    video = f"recordings/{SEQUENCE}/C10404_rgb"
    assert clips.filter(split="train").drop("split").rows() == [
        (f"{SEQUENCE}/C10404_rgb_0.0_1.0", f"{video}.mp4", 0.0, 1.0, "remove excavator arm", "suv"),
        (f"{SEQUENCE}/C10404_rgb_2.8_3.7", f"{video}.mp4", 2.8, 3.7, "clap hand", "suv"),
    ]
    assert clips.filter(split="val").height == 2
    assert record["unusable"] == {datasets.TWICE: 2, "actions that do not end after their start": 2}


def test_coarse_actions_are_clips_of_every_view(assembly: Path) -> None:
    record, clips = run_manifest(
        assembly, "dataset", "assembly101-coarse", "data", str(assembly), "on_disk", False
    )
    assert clips.drop("clip").rows() == [
        (
            f"recordings/{SEQUENCE}/{view}_rgb.mp4",
            1.0,
            2.5,
            "train",
            "attempt to screw chassis",
            "suv",
        )
        for view in ("C10115", "C10404")
    ]
    assert record["unusable"] == {"actions that are withheld": 1}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("egoexo-exo", "takes.json", [{"take_name": "x"}], "take_uid is missing"),
        ("egoexo-exo", "takes.json", [{"take_uid": "uid-1"}], "root_dir is missing"),
        ("egoexo-exo", "annotations/expert_commentary_train.json", [], "not expert commentary"),
        (
            "egoexo-exo",
            "annotations/expert_commentary_train.json",
            {"annotations": {"uid-1": [{}]}},
            "'commentary_data'",
        ),
        ("egoexo-exo", "annotations/expert_commentary_train.json", "{", "not JSON"),
        (
            "assembly101-fine",
            "fine-grained-annotations/train.csv",
            "video,start_frame\nx,1\n",
            "not annotations of Assembly",
        ),
    ],
)
def test_wrong_files_are_refused(
    egoexo: Path,
    assembly: Path,
    name: str,
    file: str,
    content: Any,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(egoexo / file, content)
    command = [
        "--dataset",
        name,
        "--data",
        str(egoexo),
        "--no-on-disk",
        "--out",
        str(egoexo / "m.parquet"),
    ]
    refuses(manifest.main, command, capsys, said)
    assert not (egoexo / "m.parquet").exists()


ALIGN = {  # htm_align.json: alignable, start, end, text
    "-3CEg4y7mQM": [
        [0, 3.1, 5.0, "welcome back to my channel"],
        [1, 10.739, 17.535, "add extra virgin olive oil and garlic"],
        [1, 18.0, 21.25, "saute\nthem"],
    ]
}
SENTENCIFIED = {  # sentencified_htm_370k.json
    "abcdefghijk": {
        "start": [4.13, 6.5, 9.0, 12.0],
        "end": [6.5, 8.36, 9.0, 80.0],
        "text": [
            "so we've moved location",
            "and as you can see",
            "a moment",
            "a very long sentence",
        ],
    },
    "lmnopqrstuv": {"start": [0.5], "end": [0.9], "text": ["short"]},
}
AUTO_ALIGNED = """vid,timestamp,text
6yooogsTG8k,284,and starting with pink
abcdefghijk,1,at the start
6yooogsTG8k,284,knead that a little bit
6yooogsTG8k,12,"first, of this video"
"""


def run_manifest(
    folder: Path, *given: object, out: str = "m.parquet"
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Run the command; return its record and the manifest."""
    record = manifest.run(
        manifest.ManifestOptions(
            str(folder / out), **dict(zip(given[::2], given[1::2], strict=True))
        )
    )
    manifest.show(record)
    return record, pl.read_parquet(folder / out)


def test_each_sentence_is_a_clip_named_by_its_video_and_times(tmp_path: Path) -> None:
    file = tmp_path / "sentencified_htm_370k.json"
    file.write_text(json.dumps(SENTENCIFIED))
    record, clips = run_manifest(tmp_path, "sentences", str(file), "on_disk", False)
    assert clips.drop("narration").rows() == [
        ("abcdefghijk_4.13_6.5", "videos/abcdefghijk.mp4", 4.13, 6.5, "train"),
        ("abcdefghijk_6.5_8.36", "videos/abcdefghijk.mp4", 6.5, 8.36, "train"),
        ("abcdefghijk_12.0_80.0", "videos/abcdefghijk.mp4", 12.0, 80.0, "train"),
        ("lmnopqrstuv_0.5_0.9", "videos/lmnopqrstuv.mp4", 0.5, 0.9, "train"),
    ]
    assert (
        clips["narration"][1] == "and as you can see"
        and record["narrated"] == 4
        and record["missing"] is None
    )
    assert record["narration_faults"] == {"sentences of no length": 1} and record["videos"] == 2
    assert not read_manifest(tmp_path / "m.parquet").failures


def test_sentences_that_cannot_be_aligned_are_counted(tmp_path: Path) -> None:
    (tmp_path / "htm_align.json").write_text(json.dumps(ALIGN))
    record, clips = run_manifest(
        tmp_path, "sentences", str(tmp_path / "htm_align.json"), "on_disk", False
    )
    assert clips["clip"].to_list() == ["-3CEg4y7mQM_10.739_17.535", "-3CEg4y7mQM_18.0_21.25"]
    assert clips["narration"][1] == "saute them"
    assert record["narration_faults"] == {"sentences that are not alignable": 1}


def test_sentences_of_one_interval_are_one_clip(tmp_path: Path) -> None:
    (tmp_path / "htm_aa_v1.csv").write_text(AUTO_ALIGNED)
    _, clips = run_manifest(
        tmp_path, "sentences", str(tmp_path / "htm_aa_v1.csv"), "on_disk", False
    )
    assert clips.select("clip", "start", "end", "narration").rows() == [
        ("6yooogsTG8k_10.4_13.6", 10.4, 13.6, "first, of this video"),
        ("6yooogsTG8k_282.4_285.6", 282.4, 285.6, "and starting with pink knead that a little bit"),
        ("abcdefghijk_0.0_2.6", 0.0, 2.6, "at the start"),
    ]
    _, longer = run_manifest(
        tmp_path, "sentences", str(tmp_path / "htm_aa_v1.csv"), "on_disk", False, "seconds", 10.0
    )
    assert longer.select("start", "end").rows() == [(7.0, 17.0), (279.0, 289.0), (0.0, 6.0)]


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_a_clip_has_a_length(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "htm_aa_v1.csv").write_text(AUTO_ALIGNED)
    with pytest.raises(StepDiffError, match="--seconds .* is too small"):
        run_manifest(
            tmp_path,
            "sentences",
            str(tmp_path / "htm_aa_v1.csv"),
            "on_disk",
            False,
            "seconds",
            seconds,
        )


def test_clips_of_a_video_not_on_disk_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SENTENCIFIED))
    (tmp_path / "howto").mkdir()
    (tmp_path / "howto/lmnopqrstuv.webm").write_bytes(b"a video")
    (tmp_path / "howto/abcdefghijk.webm").mkdir()  # not a file
    given = [
        "--sentences",
        str(file),
        "--out",
        str(tmp_path / "m.parquet"),
        "--videos",
        "howto/{video}.webm",
    ]
    assert manifest.main([*given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (
        record["missing"] == ["howto/abcdefghijk.webm"] and record["clips"] == record["videos"] == 1
    )
    assert pl.read_parquet(tmp_path / "m.parquet")["video"].to_list() == ["howto/lmnopqrstuv.webm"]
    assert manifest.main(given) == 0
    printed = capsys.readouterr().out
    assert (
        "1 of 2 videos (50.0%) are on disk" in printed
        and "missing: 1 videos, e.g. howto/abc" in printed
    )
    given[-1] = "elsewhere/{video}.webm"
    os.remove(tmp_path / "m.parquet")
    refuses(manifest.main, given, capsys, "none of the 2 videos is on disk", "--no-on-disk")
    assert not (tmp_path / "m.parquet").exists()
    assert (
        manifest.main([*given, "--no-on-disk"]) == 0
        and pl.read_parquet(tmp_path / "m.parquet").height == 4
    )


def test_a_clip_that_is_too_short_or_too_long_is_counted(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENTENCIFIED))
    given = ("sentences", str(tmp_path / "s.json"), "on_disk", False)
    record, clips = run_manifest(tmp_path, *given, "least_seconds", 1.0, "most_seconds", 30.0)
    assert clips["clip"].to_list() == ["abcdefghijk_4.13_6.5", "abcdefghijk_6.5_8.36"]
    assert record["unusable"] == {"clips shorter than 1 s": 1, "clips longer than 30 s": 1}
    with pytest.raises(
        StepDiffError, match=r"no clip can be used \(4 x clips shorter than 100 s\)"
    ):
        run_manifest(tmp_path, *given, "least_seconds", 100.0)


def test_a_source_that_fails_leaves_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENTENCIFIED)[:-30])
    (tmp_path / "aa.csv").write_text("vid,seconds,text\n")
    for file, said in (
        ("s.json", "damaged after entry"),
        ("aa.csv", "no column timestamp"),
        ("gone.json", "cannot be"),
    ):
        given = [
            "--sentences",
            str(tmp_path / file),
            "--out",
            str(tmp_path / "m.csv"),
            "--no-on-disk",
        ]
        refuses(manifest.main, given, capsys, said)
        assert not list(tmp_path.glob("*m.csv*"))


def test_sentences_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/abc.csv").write_text(
        'start,end,text\n4.13,6.50,"so, we moved"\n6.50,8.36,and see\n9,9.5,\n'
    )
    record, clips = run_manifest(tmp_path, "sentences", str(tmp_path / "raw"), "on_disk", False)
    assert (
        clips["clip"].to_list() == ["abc_4.13_6.5", "abc_6.5_8.36"]
        and clips["narration"][0] == "so, we moved"
    )
    assert record["narration_faults"] == {"pieces without text or time": 1}


@pytest.mark.full
@pytest.mark.parametrize(
    "content",
    [
        {"x": [[1, 2]]},
        {"x": [[1, 2, 3, "a", 5]]},
        {"x": {"start": [1], "end": [2, 3], "text": ["a"]}},
        {"x": 5},
        {"x": [5]},
        {"x": [[1, float("inf"), float("nan"), "a"], [1, "1", "0.5", "a"], [1, 1, 2, None]]},
        {},
        [],
    ],
)
def test_sentences_of_another_form_are_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(StepDiffError) as error:
        run_manifest(tmp_path, "sentences", str(tmp_path / "s.json"), "on_disk", False)
    assert "\n" not in str(error.value) and not (tmp_path / "m.parquet").exists()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in more:
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_images_of_webdataset_are_clips_with_their_captions(tmp_path: Path) -> None:
    (tmp_path / "laion").mkdir()
    files = {
        "./000000000.jpg": jpeg(),
        "./000000000.txt": b"a red\n square",
        "./000000000.json": b'{"caption": "of the json", "width": 8}',
        "sub.dir/1.x.JPG": jpeg(),  # the key is sub.dir/1 and the kind x.jpg, which is no image
        "sub.dir/2.PNG": jpeg(),
        "sub.dir/2.json": b'{"caption": "of the json"}',
    }
    write_tar(tmp_path / "laion/00000.tar", files)
    write_tar(tmp_path / "laion/00001.tar", {"000000000.jpg": jpeg(), "000000000.txt": b"another"})
    record, clips = run_manifest(tmp_path, "images", (str(tmp_path / "laion"),))
    assert clips.rows() == [
        ("00000/000000000", "laion/00000.tar/000000000.jpg", 0.0, 1.0, "train", "a red square"),
        ("00000/sub.dir/2", "laion/00000.tar/sub.dir/2.PNG", 0.0, 1.0, "train", "of the json"),
        ("00001/000000000", "laion/00001.tar/000000000.jpg", 0.0, 1.0, "train", "another"),
    ]
    assert record["captioned"] == 3 and record["unusable"] == {}
    pattern = str(tmp_path / "laion/{00000..00001}.tar")
    assert run_manifest(tmp_path, "images", (pattern,), out="other.parquet")[1].equals(clips)
    # folders are created
    moved = run_manifest(tmp_path, "images", (pattern,), out="new/folder/m.parquet")[1]
    assert moved["video"][0] == "../../laion/00000.tar/000000000.jpg"


@pytest.mark.full
def test_an_image_without_a_caption_is_no_clip_and_is_counted(tmp_path: Path) -> None:
    files = {
        **{f"{number}.jpg": jpeg() for number in range(7)},
        "0.txt": b"good",
        "0.png": jpeg(),
        "1.txt": b" \n",
        "2.json": b"[1",
        "3.json": b'{"caption": null}',
        "4.json": b"[" * 5000,
        "5.txt": b"x" * (images.MOST_CAPTION + 1),
        "9.txt": b"no image",
    }
    record, clips = run_manifest(tmp_path, "images", (str(write_tar(tmp_path / "a.tar", files)),))
    assert clips["clip"].to_list() == ["a/0"] and clips["caption"].to_list() == ["good"]
    assert record["unusable"] == {images.NO_CAPTION: 6, images.NO_IMAGE: 1, images.TWICE: 1}


@pytest.mark.full
def test_links_and_unsafe_names_in_a_tar_are_counted(tmp_path: Path) -> None:
    link = tarfile.TarInfo("0.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {
        "../1.jpg": jpeg(),
        "/2.jpg": jpeg(),
        "0.txt": b"a link",
        "3.jpg": jpeg(),
        "3.txt": b"good",
    }
    record, clips = run_manifest(
        tmp_path, "images", (str(write_tar(tmp_path / "a.tar", files, link)),)
    )
    assert clips["clip"].to_list() == ["a/3"]
    assert record["unusable"] == {images.REFUSED: 3, images.NO_IMAGE: 1}


@pytest.mark.full
def test_a_damaged_tar_gives_the_images_before_the_damage(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", {"0.jpg": jpeg(), "0.txt": b"good", "1.jpg": jpeg(), "1.txt": b"lost"}
    )
    with tarfile.open(tar) as read:
        cut = read.getmember("1.jpg").offset_data + 10
    os.truncate(tar, cut)
    record, clips = run_manifest(tmp_path, "images", (str(tar),))
    assert clips["clip"].to_list() == ["a/0"]
    assert record["unusable"] == {f"{tar} is cut short after 2 members; copy it again": 1}


@pytest.mark.full
def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", {"0.jpg": jpeg(), "0.txt": b"x"})
    with pytest.raises(StepDiffError, match="would give two images one id"):
        run_manifest(tmp_path, "images", (str(tmp_path / "a"), str(tmp_path / "b")))


def img2dataset(folder: Path, form: str) -> Path:
    """Write what img2dataset writes: a table, and the images that it got as a tar file or as
    files."""
    folder.mkdir()
    rows = {
        "url": ["https://a/0.jpg", "https://a/1.jpg", "https://a/2.jpg", "https://a/3.jpg"],
        "caption": ["zero", "one", None, "three"],
        "key": ["000000000", "000000001", "000000002", "000000003"],
        "status": ["success", "failed_to_download", "success", "success"],
        "error_message": [None, "HTTP Error 404", None, None],
        "width": [8, None, 8, 8],
        "sha256": ["a", None, "b", "c"],
    }
    pl.DataFrame(rows).write_parquet(folder / "00000.parquet")
    files = {f"{key}.jpg": jpeg() for key in ("000000000", "000000002")} | {
        "000000000.txt": b"zero"
    }
    if form == "webdataset":
        write_tar(folder / "00000.tar", files)
    else:
        (folder / "00000").mkdir()
        for name, content in files.items():
            (folder / "00000" / name).write_bytes(content)
    return folder / "00000.parquet"


@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_tables_of_img2dataset_name_the_images_that_it_got(tmp_path: Path, form: str) -> None:
    table = img2dataset(tmp_path / "laion", form)
    record, clips = run_manifest(tmp_path, "images", (str(table),))
    place = "laion/00000.tar/000000000.jpg" if form == "webdataset" else "laion/00000/000000000.jpg"
    assert clips.rows() == [("00000/000000000", place, 0.0, 1.0, "train", "zero")]
    counts = {images.NOT_DOWNLOADED: 1, images.NO_CAPTION: 1, images.NO_IMAGE: 1}
    assert record["unusable"] == counts
    if form == "files":  # a folder without tar files is its tables
        assert run_manifest(tmp_path, "images", (str(table.parent),))[1].equals(clips)


@pytest.mark.full
def test_tables_of_another_form_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"URL": ["x"], "TEXT": ["y"]}).write_parquet(tmp_path / "list.parquet")
    with pytest.raises(
        StepDiffError, match=r"list.parquet: no column caption; give the \.parquet that img2dataset"
    ):
        run_manifest(tmp_path, "images", (str(tmp_path / "list.parquet"),))
    pl.DataFrame({"key": ["x"], "jpg": [b"y"]}).write_parquet(tmp_path / "inside.parquet")
    with pytest.raises(StepDiffError, match="holds the images themselves"):
        run_manifest(tmp_path, "images", (str(tmp_path / "inside.parquet"),))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(StepDiffError, match="damaged.parquet"):
        run_manifest(tmp_path, "images", (str(tmp_path / "damaged.parquet"),))
    keys = {"key": ["../up", "/etc/x"], "caption": ["a", "b"], "status": ["success"] * 2}
    pl.DataFrame(keys).write_parquet(tmp_path / "unsafe.parquet")
    (tmp_path / "up.jpg").write_bytes(jpeg())
    with pytest.raises(StepDiffError, match=r"2 x links, devices, sparse files and unsafe names"):
        run_manifest(tmp_path, "images", (str(tmp_path / "unsafe.parquet"),))
