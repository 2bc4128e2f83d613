"""A share of the training data validates a run, and its videos do not train."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from heads import evaluate, train
from heads.data.hold_out import VALIDATES, HoldOut, drawn_clips
from heads.data.packing import Turn
from heads.data.paired_qa import PairQuestions
from heads.methods.stepdiff import StepDiff
from heads.training.checkpoint import Run
from heads.training.contrastive_task import ContrastiveTask
from heads.training.log import read_metrics
from heads.training.recipe import HardNegativeOptions, Validation, read_recipe
from heads.training.run_record import load_video_lm
from heads.training.validation import HeldOutPairs, questions
from heads.training.video_task import VideoTask
from stepdiff_core.errors import StepDiffError
from store import Store

from .conftest import (
    CLIPS,
    SYSTEMS,
    Capture,
    add_texts,
    contrastive,
    evaluation,
    read_rows,
    recipe,
    write_rows,
    write_world,
)
from .runs import assert_same_weights, interrupted_at

SHARE = {"share": 0.4, "rows": 4}
SHORT = {"steps": 2, "validate_every": 1}
SEED = 1  # holds out two of the three videos with training clips


def catalog(world: Path) -> pl.DataFrame:
    return Store.open(world / "features").catalog("clips").frame()


def held_clips(world: Path, seed: int = SEED) -> set[str]:
    """Return the training clips that a run of this seed holds out."""
    return set(drawn_clips(catalog(world), SHARE["share"], "video", seed)) & set(
        catalog(world)["key"][:12]
    )


def trains(world: Path, tiny_lm: str, out: Path, *flags: str, **more: object) -> int:
    more = {"schedule": SHORT, "validation": SHARE} | more
    return train.main(
        ["--config", str(recipe(world, tiny_lm, out, **more)), "--seed", str(SEED), *flags]
    )


def values(run: Path, name: str) -> list[Any]:
    return [record[name] for record in read_metrics(run / "metrics.jsonl") if name in record]


def test_one_seed_holds_out_the_same_videos() -> None:
    clips = pl.DataFrame(
        {
            "key": [f"clip {i}" for i in range(6000)],
            "video": [f"v{i // 3}.mp4" for i in range(6000)],
        }
    )
    few, more = (drawn_clips(clips, share, "video", 0) for share in (0.02, 0.1))
    assert 60 <= len(few) <= 180 and 480 <= len(more) <= 720 and set(few) < set(more)
    videos = clips.filter(pl.col("key").is_in(few.implode()))["video"].unique()
    assert len(few) == 3 * len(videos), "all clips of a video"
    assert set(drawn_clips(clips[::2], 0.02, "video", 0)) == set(few) & set(clips[::2]["key"])
    assert set(drawn_clips(clips, 0.02, "video", 1)) != set(few)
    of_single_clips = drawn_clips(clips, 0.1, "clip", 0)
    assert (
        480 <= len(of_single_clips) <= 720
        and len(of_single_clips)
        < 3 * clips.filter(pl.col("key").is_in(of_single_clips.implode()))["video"].n_unique()
    )
    nameless = pl.DataFrame({"key": ["a", "clip 7", "ü/x", "v_0_1", "v_1_2"]})
    for share in (0.1, 0.5, 0.9):
        found = set(drawn_clips(nameless, share, "video", 3))
        assert ("v_0_1" in found) == ("v_1_2" in found), "a published id names its video"
        assert found == set(drawn_clips(nameless.with_columns(video=pl.lit("")), share, "video", 3))


def test_validating_clips_never_train_and_test_clips_do_neither(world: Path) -> None:
    hold_out = HoldOut([str(world / "diffcap_test.jsonl")])
    test = CLIPS[18]  # a clip of the test set
    hold_out.look_up(catalog(world), pl.Series([CLIPS[0], CLIPS[1], CLIPS[2], test]))
    assert set(hold_out.validating) == set(CLIPS[:3])
    pairs = [
        (CLIPS[0], CLIPS[1]),
        (CLIPS[0], CLIPS[3]),
        (CLIPS[4], CLIPS[5]),
        (CLIPS[2], test),
        (CLIPS[3], test),
    ]
    assert hold_out.keep_pairs(pairs, "pairs") == [False, False, True, False, False]
    assert hold_out.validating_pairs(pairs) == [True, False, False, False, False]
    assert hold_out.sources["pairs"][VALIDATES] == 2 and hold_out.sources["pairs"]["of"] == 5
    assert hold_out.record() is not None and any(VALIDATES in line for line in hold_out.lines())


def test_no_clip_of_a_validating_video_trains(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    options = read_recipe(
        recipe(world, tiny_lm, tmp_path / "run", sources=[*SYSTEMS["StepDiff"], "clips"])
    )
    assert options.video_lm is not None
    made = dataclasses.replace(
        options.video_lm, hard_negatives=HardNegativeOptions(), validation=Validation(**SHARE)
    )
    held = held_clips(world)
    assert 0 < len(held) < 12
    task = VideoTask(made, Store.open(world / "features"), SEED, "cpu")
    left = set(CLIPS[:12]) - held
    assert {clip for number in range(80) for clip in task.batch(number).clips} == left
    assert task.negatives is not None and set(task.catalog.keys(task.negatives.rows)) == left
    assert {clip for pair in task.pairs for clip in (pair.reference, pair.candidate)} == left
    assert set(task.catalog.keys(np.concatenate(task.trained_rows()))) == set(left)
    assert {clip for batch in task.held for clip in batch.clips} <= held
    assert isinstance(task.validator, HeldOutPairs) and set(task.validator.clips()) <= held
    assert len(task.validator.pairs) == 4


@pytest.mark.full
def test_the_smallest_mean_loss_over_answer_tokens_chooses(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert trains(world, tiny_lm, out, precision="float32") == 0
    losses, accuracies = values(out, "val_loss"), values(out, "val_accuracy")
    assert values(out, "val_score") == [-loss for loss in losses] and len(losses) == 3
    assert all(value in (0, 0.25, 0.5, 0.75, 1) for value in accuracies)
    best = json.loads((out / "best.json").read_text())
    assert best["score"] == -min(losses[1:]) and best["step"] == 1 + losses[1:].index(
        min(losses[1:])
    )
    made, store = read_recipe(out / "recipe.yaml").video_lm, Store.open(world / "features")
    assert made is not None
    task = VideoTask(made, store, SEED, "cpu")
    model, features, _ = load_video_lm(out, store)
    assert isinstance(task.validator, HeldOutPairs)
    total = tokens = 0.0
    for pair in task.validator.pairs:
        clips = pair.clips
        for turn in dict.fromkeys(Turn(turn.question, turn.answer) for turn in pair.turns):
            found = StepDiff(model, features).likelihoods([(clips, turn)], mean=False)[clips, turn]
            average = StepDiff(model, features).likelihoods([(clips, turn)], mean=True)[clips, turn]
            total, tokens = total - found, tokens + found / average
    assert -best["score"] == pytest.approx(total / tokens, rel=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("system", ["VCLM", "Interleaved"])
def test_without_pairs_texts_of_held_out_videos_validate(
    system: str, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    more = {"sources": list(SYSTEMS[system]), "pairqa": None, "validation": SHARE | {"rows": 2}}
    assert trains(world, tiny_lm, tmp_path / "run", **more) == 0
    assert values(tmp_path / "run", "val_score") == [
        -loss for loss in values(tmp_path / "run", "val_loss")
    ]
    made = read_recipe(tmp_path / "run" / "recipe.yaml").video_lm
    assert made is not None
    task = VideoTask(made, Store.open(world / "features"), SEED, "cpu")
    assert len(task.held) == len(made.sources)
    assert {clip for batch in task.held for clip in batch.clips} <= held_clips(world)


@pytest.mark.full
# of an interrupt before its with block
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ScandirIterator")
def test_a_resumed_run_holds_out_the_same_videos(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    schedule = {"steps": 6, "validate_every": 1}
    assert trains(world, tiny_lm, tmp_path / "whole", schedule=schedule) == 0
    with interrupted_at(tmp_path / "killed/checkpoint-000002"):
        trains(world, tiny_lm, tmp_path / "killed", schedule=schedule)
    assert trains(world, tiny_lm, tmp_path / "killed", schedule=schedule) == 0
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
    assert values(tmp_path / "whole", "val_loss") == values(tmp_path / "killed", "val_loss")


@pytest.mark.full
def test_clips_that_trained_the_init_run_do_not_validate(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    texts = {"sources": ["clips"], "pairqa": None, "validation": SHARE | {"rows": 2}}
    assert trains(world, tiny_lm, tmp_path / "first", **texts) == 0
    assert trains(world, tiny_lm, tmp_path / "next", init=str(tmp_path / "first")) == 0
    assert trains(world, tiny_lm, tmp_path / "all", **(texts | {"validation": None})) == 0
    capsys.readouterr()
    for by in ("video", "clip"):
        more = {"validation": SHARE | {"by": by, "rows": 1}, "init": str(tmp_path / "all")}
        assert trains(world, tiny_lm, tmp_path / "refused", **more) == 2
        error = capsys.readouterr().err
        assert (
            "clips that video_lm.validation.share holds out; start from a run of the same seed"
            in error
        )
        assert error.count("\n") == 1 and not (tmp_path / "refused").exists()
    assert (
        trains(world, tiny_lm, tmp_path / "told", init=str(tmp_path / "all"), validation=None) == 0
    )


def test_without_validation_the_last_checkpoint_is_the_best_one(
    world: Path, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    out, more = tmp_path / "run", {"validation": None, "schedule": SHORT | {"steps": 3}}
    assert trains(world, tiny_lm, out, **more) == 0
    output = capsys.readouterr()
    assert "no validation chooses a checkpoint; the last one is the best" in output.err
    assert output.out == "best checkpoint: step 3, without validation\n"
    assert json.loads((out / "best.json").read_text()) == {
        "checkpoint": "checkpoint-000003",
        "step": 3,
        "score": None,
    }
    assert Run(out).best().name == "checkpoint-000003" and [
        path.name for path in Run(out).checkpoints()
    ] == ["checkpoint-000003"]
    assert not any(
        name.startswith("val_") for record in read_metrics(out / "metrics.jsonl") for name in record
    )
    assert (out / "loss.png").stat().st_size > 0
    assert trains(world, tiny_lm, out, "--json", **more) == 0
    assert json.loads(capsys.readouterr().out) == {"step": 3, "score": None}
    asked = evaluation(
        world, "diffmcq", "stepdiff", tmp_path / "predictions.jsonl", "--head", str(out)
    )
    assert evaluate.main(asked) == 0


def pair(reference: str, candidate: str, *answers: str) -> PairQuestions:
    return PairQuestions(
        reference, candidate, tuple(Turn("What differs?", answer) for answer in answers)
    )


def test_options_share_no_clip_with_the_pair_and_show_its_step() -> None:
    steps: dict[str, str | None] = {clip: "stir" for clip in "abcdefgh"} | {
        clip: "chop" for clip in "uvwxyz"
    }
    asked = pair("a", "b", "YES", "In Video 2, a fork.")
    same = [pair("c", "d", "a spoon"), pair("e", "f", "a cup"), pair("g", "h", "a pan")]
    other = [pair("u", "v", "salt"), pair("w", "x", "oil")]
    sharing = [pair("a", "c", "a lid"), pair("b", "a", "the opposite"), pair("d", "d", "nothing")]
    for seed in range(20):
        (row,) = questions([asked], [asked, *same, *other, *sharing], steps, seed)
        assert set(row.options) == {
            ("a", "b"),
            ("c", "d"),
            ("e", "f"),
            ("g", "h"),
        } and row.answer == ("a", "b")
        assert (row.category, row.difference) == ("What differs?", "In Video 2, a fork.")
        (row,) = questions([asked], [asked, *same[:1], *other, *sharing], steps, seed)
        assert set(row.options) == {("a", "b"), ("c", "d"), ("u", "v"), ("w", "x")}
        (row,) = questions([asked], [asked, *same[:1], *other[:1], *sharing], {}, seed)
        assert set(row.options) == {("a", "b"), ("c", "d"), ("u", "v"), ("a", "c")}
        assert not list(questions([asked], [asked, *same[:2], *sharing[1:]], steps, seed))


def test_one_option_has_the_answer_and_none_declines() -> None:
    same = [pair(*clips, "a fork", "a spoon") for clips in ("cd", "ef", "gh")]
    assert not list(questions([pair("a", "b", "a fork")], [pair("a", "b", "a fork"), *same], {}, 0))
    declined = pair("a", "b", "YES", "Video 1", "There is no difference in the tools.")
    assert not list(questions([declined], [declined, *same], {}, 0))


@pytest.mark.full
def test_clips_may_have_any_ids(world: Path, tiny_lm: str, tmp_path: Path) -> None:
    ids = ["a", "clip 7", "ü/x", "a_0", *(f"{i}" for i in range(20))]
    other, out = write_world(tmp_path, ids), tmp_path / "run"
    assert trains(other, tiny_lm, out, sources=[*SYSTEMS["StepDiff"]], precision="float32") == 0
    assert (
        trains(
            world,
            tiny_lm,
            tmp_path / "published",
            sources=[*SYSTEMS["StepDiff"]],
            precision="float32",
        )
        == 0
    )
    assert values(out, "val_loss") == values(tmp_path / "published", "val_loss"), (
        "the catalog names the videos"
    )
    for task in ("diffcap", "diffmcq", "diffrank"):
        asked = evaluation(other, task, "stepdiff", tmp_path / f"{task}.jsonl", "--head", str(out))
        assert evaluate.main(asked) == 0
    with pytest.raises(StepDiffError, match="hold_out leaves nothing of pairs"):
        rows = [
            {"reference": ids[i], "candidate": ids[20], "category": "x", "text": ["x"]}
            for i in (0, 4, 8)
        ]
        write_rows(tmp_path / "all.jsonl", rows)
        made = read_recipe(out / "recipe.yaml").video_lm
        assert made is not None
        VideoTask(
            made,
            Store.open(other / "features"),
            SEED,
            "cpu",
            HoldOut([str(tmp_path / "all.jsonl")]),
        )


@pytest.mark.full
def test_held_out_pairs_validate_a_contrastive_head(world: Path, tmp_path: Path) -> None:
    other = write_world(tmp_path, CLIPS)
    qa = read_rows(other / "pairqa.jsonl")
    answers = list(dict.fromkeys(row["answer"] for row in qa if row["type"] == 1))
    store = Store.open(other / "features")
    add_texts(store, answers, np.random.default_rng(0).standard_normal((len(answers), 8)))
    pairs = {"pairqa": str(other / "pairqa.jsonl"), "pairs": 3, "validation": SHARE}
    path = contrastive(str(other / "features"), tmp_path / "run", pairs=pairs, schedule=SHORT)
    assert train.main(["--config", str(path), "--seed", str(SEED)]) == 0
    assert values(tmp_path / "run", "val_score") == [
        -loss for loss in values(tmp_path / "run", "val_loss")
    ]
    assert (
        len(values(tmp_path / "run", "val_accuracy"))
        == len(values(tmp_path / "run", "val_text_loss"))
        == 3
    )
    made = read_recipe(path).contrastive
    assert made is not None and made.pairs is not None
    task = ContrastiveTask(made, store, SEED, "cpu")
    held = held_clips(other)
    assert task.pairs is not None and task.held is not None
    trained, validating = (
        {clip for pair, _ in (*source.differing, *source.judged) for clip in pair}
        for source in (task.pairs, task.held)
    )
    assert trained == {key for key, _ in task.train} == set(CLIPS[:12]) - held
    assert {key for key, _ in task.val} == held and validating <= held
    off = yaml.safe_load(path.read_text())
    off["contrastive"]["pairs"]["validation"] = None
    (tmp_path / "off.yaml").write_text(yaml.safe_dump(off | {"out": str(tmp_path / "off")}))
    assert train.main(["--config", str(tmp_path / "off.yaml")]) == 0
    assert json.loads((tmp_path / "off" / "best.json").read_text())["score"] is None
