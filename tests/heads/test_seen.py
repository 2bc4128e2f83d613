"""A head is not evaluated on clips that trained it (heads.data.trained_on), or tables mark the scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.errors import StepDiffError
from heads import embed, evaluate, report, score, table, train
from heads.data.trained_on import TrainedOn
from store import Store
from tasks.testsets import DiffRank, write_test_set

from .small_task import unsealed
from .test_contrastive import recipe as contrastive

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]


def ranking(path: Path, *groups: tuple[int, ...]) -> str:
    rows = [DiffRank(CLIPS[a], tuple(CLIPS[i] for i in rest), "Visuals", (2, 3, 5, 0)) for a, *rest in groups]
    write_test_set("diffrank", path, rows)
    return str(path)


def command(world: Path, test_set: str, out: Path, *more: str) -> list[str]:
    given = ["--task", "diffrank", "--store", str(world / "features"), "--bootstrap", "20", "--json"]
    return [*given, "--test-set", test_set, "--out", str(out), *more]


@pytest.fixture
def partly_seen(tmp_path: Path) -> str:
    """Two of six test clips trained the head; one of two rows has them."""
    return ranking(tmp_path / "test.jsonl", (18, 19, 20, 21, 22), (18, 0, 4, 20, 21))


def test_a_test_set_that_shares_clips_or_videos_with_training_is_refused_or_marked_if_allowed(
    trained: Path, world: Path, partly_seen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, head = tmp_path / "p.jsonl", ["--method", "video-lm", "--head", str(trained)]
    for control in ("none", "blind"):
        capsys.readouterr()
        assert evaluate.main(command(world, partly_seen, out, *head, "--control", control)) == 2
        error = capsys.readouterr().err
        assert (
            f"{partly_seen}: {trained} was trained on 2 of its 7 clips, and 2 of them are from 2 videos that trained "
            f"it (1 of 2 rows); train with --hold-out {partly_seen}, or pass --allow-seen, which marks the scores"
        ) in error
        assert error.count("\n") == 1 and not out.exists()
    assert evaluate.main(command(world, partly_seen, out, *head, "--allow-seen")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["seen"] == {
        "source": str(trained),
        "clips": 2,
        "clips_of_videos": 2,
        "of_clips": 7,
        "videos": 2,
        "rows": 1,
        "of_rows": 2,
        "namesakes": 0,
        "unrecorded": [],
    }
    note = "2 of 7 test clips are from videos that trained this head, 2 trained it themselves"
    evaluate.show(record)
    assert f"‡ {note}" in capsys.readouterr().out

    scored = ["--task", "diffrank", "--test-set", partly_seen, "--predictions", str(out), "--bootstrap", "20"]
    assert score.main(scored) == 0
    printed = capsys.readouterr().out
    assert "diffrank ‡:" in printed and f"‡ {note}" in printed

    assert table.main([str(out.with_suffix(".scores.json")), "--out", str(tmp_path / "table.json")]) == 0
    printed = capsys.readouterr().out
    (name,) = [name for name in json.loads((tmp_path / "table.json").read_text())["systems"] if name != "chance"]
    assert f"‡ {name}, diffrank: {note}" in printed and printed.count("‡") == 2

    entries = [{"method": m, "task": "diffrank", "test_set": partly_seen, "predictions": str(out)} for m in ("A", "B")]
    entries[1]["predictions"] = str(shutil.copy(out, tmp_path / "unmarked.jsonl"))
    settings = tmp_path / "report.yaml"
    settings.write_text(json.dumps({"predictions": entries, "bootstrap": 20, "out": str(tmp_path / "report")}))
    assert report.main(["--config", str(settings)]) == 0
    printed = capsys.readouterr().out
    note = "‡ A, DiffRank: 2 of 7 test clips are from videos that trained this head."
    markdown, latex = ((tmp_path / "report" / f"report.{form}").read_text() for form in ("md", "tex"))
    assert "A ‡" in printed and note in " ".join(printed.split()) and "B ‡" not in printed
    assert "| A ‡ |" in markdown and note in markdown and "B ‡" not in markdown
    assert r"A \textdaggerdbl{} &" in latex
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["scores"]
    assert {(s["method"], s["seen_clips"], s["test_clips"]) for s in scores} == {("A", 2, 7), ("B", 0, 0)}


def test_a_test_set_of_other_videos_is_evaluated_and_has_no_mark(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set, out = ranking(tmp_path / "test.jsonl", (18, 19, 20, 21, 22)), tmp_path / "p.jsonl"
    capsys.readouterr()
    assert evaluate.main(command(world, test_set, out, "--method", "video-lm", "--head", str(trained))) == 0
    seen = json.loads(capsys.readouterr().out)["seen"]
    assert (seen["clips"], seen["clips_of_videos"], seen["rows"]) == (0, 0, 0)
    assert table.main([str(out.with_suffix(".scores.json"))]) == 0
    assert "‡" not in capsys.readouterr().out
    assert evaluate.main(command(world, test_set, out, "--method", "step-oracle")) == 0
    assert json.loads(capsys.readouterr().out)["seen"] is None, "a method without a head was not trained"
    assert evaluate.main(command(world, test_set, out, "--method", "step-oracle", "--allow-seen")) == 2
    readers = "video-lm, stepdiff, word-evidence, vlemb"
    assert f"--allow-seen is for {readers}, and step-oracle" in capsys.readouterr().err


def test_a_head_whose_training_clips_are_not_recorded_is_reported_and_evaluated(
    trained: Path, world: Path, partly_seen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "p.jsonl"
    shutil.copytree(trained, run)
    given = command(world, partly_seen, out, "--method", "video-lm", "--head", str(run))
    (run / "trained_on.safetensors").unlink()
    assert evaluate.main(given) == 2
    assert "trained_on.safetensors: missing or damaged" in capsys.readouterr().err
    lineage = json.loads((unsealed(run) / "lineage.json").read_text())
    del lineage["trained_on"], lineage["hold_out"]  # as an earlier version wrote it
    (run / "lineage.json").write_text(json.dumps(lineage))
    assert evaluate.main(given) == 0
    printed = capsys.readouterr()
    assert f"{run}: its training clips are not recorded" in printed.err
    assert json.loads(printed.out)["seen"]["unrecorded"] == [str(run)]


def test_a_view_that_a_head_made_is_checked_against_the_training_clips_of_the_head(
    world: Path, partly_seen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, run, out = tmp_path / "features", tmp_path / "run", tmp_path / "p.jsonl"
    shutil.copytree(world / "features", features)
    records = features / "annotations" / "trained_on"
    shutil.rmtree(records, ignore_errors=True)  # views of heads that other tests embedded into the shared world
    schedule = {"steps": 1, "validate_every": 1}
    assert train.main(["--config", str(contrastive(str(features), run, schedule=schedule))]) == 0
    assert embed.main(["--head", str(run), "--store", str(features), "--view", "own"]) == 0
    given = command(tmp_path, partly_seen, out, "--method", "vlemb", "--view")
    shutil.rmtree(run)  # the store has its own record
    capsys.readouterr()
    assert evaluate.main([*given, "own"]) == 2
    error = capsys.readouterr().err
    assert f"view own (head {run}) was trained on 2 of its 7 clips" in error and error.count("\n") == 1
    assert evaluate.main([*given, "own", "--allow-seen"]) == 0
    assert json.loads(capsys.readouterr().out)["seen"]["clips"] == 2
    assert evaluate.main([*given, "visual"]) == 0, "a frozen encoder"
    assert json.loads(capsys.readouterr().out)["seen"] is None
    (record,) = records.iterdir()
    (record / "clips-000000.parquet").unlink()
    assert evaluate.main([*given, "own"]) == 2
    assert "holds 0 hashes of clips where 12 were written; embed the view again" in capsys.readouterr().err
    shutil.rmtree(record)
    assert evaluate.main([*given, "own"]) == 0
    assert f"view own of {features}: its training clips are not recorded" in capsys.readouterr().err


def rows(*clips: str) -> list[DiffRank]:
    return [DiffRank(clip, (clip,), "Visuals", (5,)) for clip in clips]


def seen(trained: dict[str, Any], tests: dict[str, Any], store: Path) -> Any:
    """Return the overlap if clips `trained` trained a head and the store has clips `tests`; both map key to video."""
    schema = {"key": pl.String, "video": pl.String}
    catalog = pl.DataFrame(list(trained.items()), schema=schema, orient="row")
    trained_on = replace(TrainedOn.of([catalog]), source="run")
    opened = Store.open(store, create=True)
    opened.catalog("clips").append(pl.DataFrame(list(tests.items()), schema=schema, orient="row"))
    return trained_on.seen(rows(*tests), opened)


@pytest.mark.parametrize(
    ("trained_video", "test_video", "of_video", "namesakes"),
    [
        ("videos/v.mp4", "videos/v.mp4", 1, 0),
        ("a/v.mp4", "b/v.mp4", 0, 1),
        ("videos/v.mp4", None, 1, 0),
        (None, "videos/v.mp4", 1, 0),
        (None, None, 1, 0),
        ("v", "videos/v.mp4", 1, 0),
        ("videos/w.mp4", "videos/v.mp4", 0, 0),
    ],
)
def test_two_clips_are_of_one_video_by_the_rule_of_the_hold_out(
    tmp_path: Path, trained_video: str | None, test_video: str | None, of_video: int, namesakes: int
) -> None:
    key = "w_1_2" if trained_video == "videos/w.mp4" else "v_1_2"
    found = seen({key: trained_video}, {"v_7_8": test_video}, tmp_path / "store")
    counts = found.counts(rows("v_7_8"))
    assert (counts["clips"], counts["clips_of_videos"], counts["videos"]) == (0, of_video, of_video)
    assert found.namesakes == namesakes and bool(found.notices("t.jsonl")) == bool(namesakes)
    if of_video:
        with pytest.raises(
            StepDiffError, match="t.jsonl: run was trained on 0 of its 1 clips, and 1 of them are from 1"
        ):
            found.refuse(rows("v_7_8"), "t.jsonl")
    else:
        found.refuse(rows("v_7_8"), "t.jsonl")


def test_a_training_clip_is_found_by_its_id_although_its_file_has_another_name(tmp_path: Path) -> None:
    found = seen({"v_1_2": "a/v.mp4"}, {"v_1_2": "b/v.mp4", "u_1_2": "b/u.mp4"}, tmp_path / "store")
    counts = found.counts([*rows("v_1_2", "u_1_2"), *rows("v_1_2")])
    assert (counts["clips"], counts["clips_of_videos"], counts["of_clips"], counts["videos"]) == (1, 1, 2, 0)
    assert (counts["rows"], counts["of_rows"]) == (2, 3)


def test_a_file_next_to_predictions_that_is_not_a_score_record_is_named(tmp_path: Path) -> None:
    from heads.reporting.entries import marked, score_record

    assert marked(score_record(str(tmp_path / "p.jsonl"))) is None
    (tmp_path / "p.scores.json").write_text('{"scores": {}}')  # of an earlier version
    assert marked(score_record(str(tmp_path / "p.jsonl"))) is None
    (tmp_path / "p.scores.json").write_text('{"scores"')
    with pytest.raises(StepDiffError, match="p.scores.json: not a score record"):
        score_record(str(tmp_path / "p.jsonl"))
