"""Guarantees of annotate/sources/datasets.py, with files that have the published keys."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate.manifest import ManifestOptions, run, show
from annotate.sources import datasets
from common.errors import StepDiffError

SEQUENCE = "nusar-2021_action_both_9033-a30_9033_user_id_2021-02-04_131528"
FINE = (
    "id,video,start_frame,end_frame,action_id,verb_id,noun_id,action_cls,verb_cls,noun_cls,toy_id,toy_name,is_shared,is_RGB\n"
    f"7,{SEQUENCE}/C10404_rgb.mp4,84,111,10,18,0,clap hand,clap,hand,a30,suv,0,1\n"
    f"8,{SEQUENCE}/C10404_rgb.mp4,84,111,11,18,1,clap both hands,clap,hand,a30,suv,0,1\n"
    f"9,{SEQUENCE}/HMC_21176875_mono10bit.mp4,9,9,11,18,1,nothing,clap,hand,a30,suv,0,0\n"
    f"5,{SEQUENCE}/C10404_rgb.mp4,0,30,380,7,22,remove excavator arm,remove,excavator arm,a30,suv,0,1\n"
)


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def captaincook(tmp_path: Path) -> Path:
    right = {"step_id": 3, "description": "Add-1 egg", "start_time": 0.5, "end_time": 9}
    wrong = {"tag": "Technique Error", "description": "Shell in the bowl"}, {"tag": "Other", "description": "spilled"}
    steps = [right, {**right, "step_id": 4, "start_time": 9, "end_time": 12.25, "errors": list(wrong)}]
    steps.append({"step_id": 5, "description": "Whisk-Whisk it", "start_time": -1, "end_time": -1})
    recordings = [
        {"recording_id": f"1_{number}", "activity_id": 1, "is_error": True, "step_annotations": steps}
        for number in (7, 8, 9)
    ]
    put(tmp_path / "annotation_json/error_annotations.json", recordings)
    split = {"train": ["1_7"], "val": ["1_8"], "test": ["1_9"]}
    put(tmp_path / "data_splits/recordings_data_split_combined.json", split)
    return tmp_path


def comment(time: float, text: object, error: bool = False) -> dict[str, Any]:
    return {"recording": "0.webm", "duration_approx": 9.5, "video_time": time, "error": error, "text": text}


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
    said = [comment(12.25, "Good\n balance"), comment(3, "early"), comment(20, "noise", True), comment(21, None)]
    train = [
        {"take_name": "unc_basketball_1", "task_name": "Reverse Layup", "commentary": "x", "commentary_data": said}
    ]
    train.append({**train[0], "commentary_data": [comment(12.25, "A second expert"), comment(0, "nothing yet")]})
    put(tmp_path / "annotations/expert_commentary_train.json", {"annotations": {"uid-1": train, "gone": train}})
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
    put(coarse / "coarse_seq_views.txt", "\n".join([*views, f"disassembly_{SEQUENCE}/C10404_rgb.mp4"]) + "\n")
    return tmp_path


def made(name: str, folder: Path, **more: Any) -> tuple[dict[str, Any], pl.DataFrame]:
    given = {"dataset": name, "data": str(folder), "on_disk": False, **more}
    record = run(ManifestOptions(str(folder / "m.parquet"), **given))
    show(record)
    return record, pl.read_parquet(folder / "m.parquet")


def test_each_dataset_gives_the_clips_of_its_published_files(captaincook: Path) -> None:
    record, clips = made("captaincook", captaincook)
    assert clips["split"].to_list() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert clips.head(2).drop("split").rows() == [
        ("1_7_0.5_9", "1_7_360p.mp4", 0.5, 9.0, "Add 1 egg", "3", "1", ""),
        ("1_7_9_12.25", "1_7_360p.mp4", 9.0, 12.25, "Add 1 egg", "4", "1", "Shell in the bowl spilled"),
    ]
    assert clips.columns[5:] == ["step", "step_id", "activity", "mistakes"]
    assert record["unusable"] == {"skipped steps": 3} and record["steps"] == 2


def test_what_an_expert_says_is_about_the_seconds_before_the_moment(egoexo: Path) -> None:
    record, clips = made("egoexo-exo", egoexo)
    video = "takes/unc_basketball_1/frame_aligned_videos/cam02"
    assert clips.rows() == [
        ("unc_basketball_1/cam02_0.0_3.0", f"{video}.mp4", 0.0, 3.0, "train", "Reverse Layup", "early"),
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
    _, ego = made("egoexo-ego", egoexo, seconds=2.0)
    assert ego["split"].to_list() == ["train", "train", "val"]
    assert ego["video"].unique().to_list() == [f"{video.replace('cam02', 'aria02_214-1')}.mp4"]
    assert ego.select("start", "end").rows() == [(1.0, 3.0), (10.25, 12.25), (7.0, 9.0)]
    _, small = made("egoexo-exo", egoexo, videos="{folder}/downscaled/448/{name}")
    assert small["video"][0] == "takes/unc_basketball_1/frame_aligned_videos/downscaled/448/cam02.mp4"


def test_two_actions_of_one_interval_are_one_clip(assembly: Path) -> None:
    record, clips = made("assembly101-fine", assembly)
    video = f"recordings/{SEQUENCE}/C10404_rgb"
    assert clips.filter(split="train").drop("split").rows() == [
        (f"{SEQUENCE}/C10404_rgb_0.0_1.0", f"{video}.mp4", 0.0, 1.0, "remove excavator arm", "suv"),
        (f"{SEQUENCE}/C10404_rgb_2.8_3.7", f"{video}.mp4", 2.8, 3.7, "clap hand", "suv"),
    ]
    assert clips.filter(split="val").height == 2
    assert record["unusable"] == {datasets.TWICE: 2, "actions that do not end after their start": 2}


def test_coarse_actions_are_clips_of_every_view(assembly: Path) -> None:
    record, clips = made("assembly101-coarse", assembly)
    assert clips.drop("clip").rows() == [
        (f"recordings/{SEQUENCE}/{view}_rgb.mp4", 1.0, 2.5, "train", "attempt to screw chassis", "suv")
        for view in ("C10115", "C10404")
    ]
    assert record["unusable"] == {"actions that are withheld": 1}


def test_videos_of_a_dataset_that_are_missing_are_listed(assembly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(assembly / f"recordings/{SEQUENCE}/C10115_rgb.mp4", "a video")
    record, clips = made("assembly101-coarse", assembly, on_disk=True)
    assert record["missing"] == [f"recordings/{SEQUENCE}/C10404_rgb.mp4"] and clips.height == 1
    assert "1 of 2 videos (50.0%) are on disk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("egoexo-exo", "takes.json", [{"take_name": "x"}], "'take_uid'"),
        ("egoexo-exo", "takes.json", [{"take_uid": "uid-1"}], "not expert commentary (no 'frame_aligned_videos'"),
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
        ("assembly101-coarse", "coarse-annotations/coarse_labels/none.txt", "", ""),
    ],
)
def test_files_of_another_form_are_refused_in_one_line(
    egoexo: Path, assembly: Path, name: str, file: str, content: Any, said: str
) -> None:
    put(egoexo / file, content)
    if not said:
        (assembly / "coarse-annotations/coarse_seq_views.txt").unlink()
        said = "coarse_seq_views.txt: cannot be read"
    with pytest.raises(StepDiffError) as error:
        made(name, egoexo)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (egoexo / "m.parquet").exists()
