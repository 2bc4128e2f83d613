"""CaptainCook4D: pairs with one mistake, retrieval, and differences."""

import json
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import pytest

from heads import evaluate
from stepdiff.annotate import export
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.captaincook import (
    SPLIT,
    PerformedStep,
    diffcap_rows,
    read_mistakes,
    read_recorded,
    read_retrieval,
)
from stepdiff_core.tasks.registry import TaskData
from stepdiff_core.tasks.testsets import read_test_set, write_test_set
from store import Feature, Provenance, Store
from tests.refusals import refuses

PEEL, ADD, STIR = (
    (3, "Peel-Peel 1 garlic clove"),
    (5, "Add-1 egg to the mug"),
    (8, "stir-then stir the bowl"),
)


def step(
    what: tuple[int, str], start: float, end: float, *errors: tuple[str, str], **more: Any
) -> dict[str, Any]:
    by_place = {"step_id": what[0], "description": what[1], "start_time": start, "end_time": end}
    if errors:
        by_place["errors"] = [
            {"tag": tag, "description": description} for tag, description in errors
        ]
    return by_place | more


def recording(name: str, recipe: int, *steps: dict[str, Any]) -> dict[str, Any]:
    flawed = any("errors" in own for own in steps)
    return {
        "recording_id": name,
        "activity_id": recipe,
        "is_error": flawed,
        "step_annotations": list(steps),
    }


SLOW, ORDER = (
    ("Timing Error", "2 minutes instead of 1"),
    ("Order Error", "Step performed after stirring"),
)
WAY = ("Technique Error", "one way")
KNIFE, LOT = ("Preparation Error", "uses a knife"), ("Measurement Error", "2 eggs")
RECORDINGS = [
    recording("1_10", 1, step(PEEL, 0.5, 9), step(ADD, 10, 21.25, LOT, ORDER), step(STIR, 30, 40)),
    recording(
        "1_7", 1, step(PEEL, 2, 8, KNIFE), step(ADD, 9, 12),
        step(STIR, -1.0, -1.0, ("Missing Step", "Skipped")),
    ),
    recording("1_8", 1, step(PEEL, 1, 5), step(ADD, 6, 8, ORDER), step(STIR, 9, 15, SLOW, WAY)),
    recording(
        "1_9", 1, step(PEEL, 3, 7), step(PEEL, 8, 9, KNIFE),
        step(STIR, 11, 12, modified_description="Shake"),
    ),
    recording("2_1", 2, step(PEEL, 0, 4), step(ADD, 5, 6, LOT), step(STIR, 7, 8, SLOW)),
    recording(
        "2_2", 2, step(PEEL, 0, 4, KNIFE), step(ADD, 5, 6),
        step((8, "stir-then mix the bowl"), 9, 10),
    ),
    recording("3_1", 3, step(PEEL, 0, 4, KNIFE)),
]  # fmt: skip
SPLITS = {"train": ["3_1"], "val": [], "test": ["1_10", "1_7", "1_8", "1_9", "2_1", "2_2"]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes annotations and a split, and returns their folder."""

    def written(recordings: Any = RECORDINGS, splits: Any = SPLITS) -> Path:
        for path, content in (
            (Path("annotation_json", "error_annotations.json"), recordings),
            (SPLIT, splits),
        ):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return written


def changed(**values: Any) -> list[dict[str, Any]]:
    """Return the recordings with other values in the first step of the first one; None removes a
    key."""
    first, *others = RECORDINGS
    own, *steps = first["step_annotations"]
    new = {key: value for key, value in (own | values).items() if value is not None}
    return [first | {"step_annotations": [new, *steps]}, *others]


def test_skipped_steps_and_missing_times_are_counted(write: Callable[..., Path]) -> None:
    recorded = read_recorded(write(changed(end_time=None)))
    assert recorded.left_out == {
        "steps without times": 1,
        "skipped steps": 1,
        "steps with a changed description and no named error": 1,
    }
    assert "left out: 1 skipped steps" in recorded.notes
    assert all(own.start >= 0 and own.end > own.start for own in recorded.steps)
    assert read_recorded(write(changed(start_time=-1))).left_out["skipped steps"] == 2


def test_a_pair_has_one_step_two_recordings_and_one_mistake(write: Callable[..., Path]) -> None:
    task_data = registry.get("captaincook-mistake").read(write())
    results = set()
    for row in task_data.rows:
        truth = task_data.truth[row.key]
        flawed, right = row.clips[truth.answer], row.clips[1 - truth.answer]
        results.add((flawed, right, truth.tags))
        assert row.options == ("Video 1", "Video 2") and "mistake" in row.question
    assert results == {
        ("1_7_2_8", "1_10_0.5_9", ("Preparation",)),
        ("1_7_2_8", "1_8_1_5", ("Preparation",)),
        ("1_7_2_8", "1_9_3_7", ("Preparation",)),
        ("1_9_8_9", "1_10_0.5_9", ("Preparation",)),
        ("1_9_8_9", "1_8_1_5", ("Preparation",)),
        ("1_10_10_21.25", "1_7_9_12", ("Measurement", "Order")),
        ("1_8_6_8", "1_7_9_12", ("Order",)),
        ("1_8_9_15", "1_10_30_40", ("Timing", "Technique")),
        ("2_2_0_4", "2_1_0_4", ("Preparation",)),
        ("2_1_5_6", "2_2_5_6", ("Measurement",)),
    }
    questions = {row.question for row in task_data.rows}
    assert (
        'The step is: "Add 1 egg to the mug". In which video is it done with a mistake?'
        in questions
    )


def test_the_order_of_the_two_videos_depends_on_their_clips_only(
    write: Callable[..., Path],
) -> None:
    task_data = read_mistakes(write())
    again = read_mistakes(write(RECORDINGS[::-1]))
    assert {row.key: (row.clips, task_data.truth[row.key].answer) for row in task_data.rows} == {
        row.key: (row.clips, again.truth[row.key].answer) for row in again.rows
    }
    many = [recording(f"{name}", 1, step(PEEL, 0, 1 + name)) for name in range(20)]
    many += [recording(f"{name}", 1, step(PEEL, 0, 1 + name, KNIFE)) for name in range(20, 40)]
    truth = read_mistakes(write(many, {"test": [str(name) for name in range(40)]})).truth
    assert len(truth) == 400 and 160 < sum(own.answer for own in truth.values()) < 240, (
        "both places are as frequent"
    )


def test_accuracy_is_that_of_each_tag_and_of_all(write: Callable[..., Path]) -> None:
    benchmark = registry.get("captaincook-mistake")
    task_data = benchmark.read(write())
    predictions = [
        [float(task_data.truth[row.key].answer == place) for place in (0, 1)]
        for row in task_data.rows
    ]
    scores = benchmark.score(task_data.rows, predictions, task_data.truth, 50, 0)
    assert scores["accuracy"] == scores["accuracy_without_order"] == 1 and scores["groups"] == 2
    assert {tag: own["rows"] for tag, own in scores["per_category"].items()} == {
        "Preparation": 6, "Measurement": 2, "Order": 2, "Timing": 1, "Technique": 1,
    }  # fmt: skip
    for place, row in enumerate(task_data.rows):  # wrong where the only mistake is the order
        if task_data.truth[row.key].tags == ("Order",):
            predictions[place] = predictions[place][::-1]
    scores = benchmark.score(task_data.rows, predictions, task_data.truth, 0, 0)
    assert (scores["accuracy"], scores["accuracy_without_order"]) == (9 / 10, 1)
    assert scores["per_category"]["Order"]["accuracy"] == 1 / 2
    assert scores["chance"] == dict(benchmark.chance)


def test_targets_are_of_the_same_recipe_and_other_recordings(write: Callable[..., Path]) -> None:
    task_data = registry.get("captaincook-retrieval").read(write())
    rows = {row.reference: row for row in task_data.rows}
    assert set(rows) == {
        "1_10_10_21.25",
        "1_7_2_8",
        "1_8_6_8",
        "1_8_9_15",
        "1_9_8_9",
        "2_1_5_6",
        "2_2_0_4",
    }
    assert rows["1_7_2_8"].targets == ("1_10_0.5_9", "1_10_30_40", "1_8_1_5", "1_9_3_7")
    assert task_data.truth[rows["1_7_2_8"].key].right == {"1_10_0.5_9", "1_8_1_5", "1_9_3_7"}
    assert "left out: 1 mistakes whose step nobody does right" in task_data.notes
    flawed = read_retrieval(write(), flawed=True)
    assert flawed.rows[1].targets == (
        "1_10_0.5_9", "1_10_10_21.25", "1_10_30_40", "1_8_1_5", "1_8_9_15", "1_9_3_7", "1_9_8_9",
    )  # fmt: skip
    assert flawed.truth == task_data.truth


def naive(task_data: TaskData, predictions: list[list[float]]) -> dict[str, float]:
    """Return recall and mean rank over all orders of tied targets."""
    ranks = []
    for row, scores in zip(task_data.rows, predictions, strict=True):
        own = []
        for order in permutations(range(len(row.targets))):
            ranked = sorted(order, key=lambda place: -scores[place])
            own.append(
                min(
                    1 + at
                    for at, p in enumerate(ranked)
                    if row.targets[p] in task_data.truth[row.key].right
                )
            )
        ranks.append(own)
    by_place = {
        f"recall@{k}": fmean(fmean(rank <= k for rank in own) for own in ranks) for k in (1, 5, 10)
    }
    inverse = fmean(fmean(1 / rank for rank in own) for own in ranks)
    return by_place | {"mean_rank": fmean(map(fmean, ranks)), "MRR": inverse}


def test_figures_and_chance_of_a_retrieval_equal_naive_ones(write: Callable[..., Path]) -> None:
    benchmark = registry.get("captaincook-retrieval")
    task_data = benchmark.read(write())
    draws = np.random.default_rng(3)
    predictions = [draws.integers(3, size=len(row.targets)).tolist() for row in task_data.rows]
    scores = benchmark.score(task_data.rows, predictions, task_data.truth, 20, 0)
    assert {name: scores[name] for name in benchmark.figures} == pytest.approx(
        naive(task_data, predictions)
    )
    constant = [[0.0] * len(row.targets) for row in task_data.rows]
    assert scores["chance"] == pytest.approx(naive(task_data, constant))
    assert scores["per_category"]["Preparation"]["rows"] == 3 and scores["rows"] == 7


def test_clips_are_those_of_the_rows(write: Callable[..., Path]) -> None:
    for name in ("captaincook-mistake", "captaincook-retrieval", "captaincook-retrieval-flawed"):
        benchmark = registry.get(name)
        clips = list(benchmark.clips(write()))
        assert {clip.clip for clip in clips} == {
            clip for row in benchmark.read(write()).rows for clip in row.clips
        }
        assert len({clip.clip for clip in clips}) == len(clips)
    first = next(iter(benchmark.clips(write())))
    assert (first.video, first.start, first.end) == ("1_10_360p.mp4", 0.5, 9)
    assert first.metadata == {"step": "Peel 1 garlic clove", "step_id": "3", "activity": "1"}


def test_each_mistake_is_described_once(write: Callable[..., Path], tmp_path: Path) -> None:
    rows, left_out = diffcap_rows(write())
    by_place = {(row.candidate, row.category): row.text for row in rows}
    assert by_place == {
        ("1_7_2_8", "Tools/Equipment"): ("uses a knife",),
        ("1_9_8_9", "Tools/Equipment"): ("uses a knife",),
        ("1_10_10_21.25", "Ingredients"): ("2 eggs",),
        ("1_8_9_15", "Technique"): ("2 minutes instead of 1", "one way"),
        ("2_2_0_4", "Tools/Equipment"): ("uses a knife",),
        ("2_1_5_6", "Ingredients"): ("2 eggs",),
    }
    assert len(rows) == len(by_place)
    assert left_out == {"mistakes of the kind Order": 2, "mistakes whose step nobody does right": 1}
    pairs = {frozenset(row.clips) for row in read_mistakes(write()).rows}
    assert all(frozenset((row.reference, row.candidate)) in pairs for row in rows)
    write_test_set("diffcap", tmp_path / "diffcap.jsonl", rows)
    assert read_test_set("diffcap", tmp_path / "diffcap.jsonl") == rows


def test_a_split_can_be_chosen(write: Callable[..., Path]) -> None:
    folder = write()
    assert read_mistakes(folder / SPLIT).rows == read_mistakes(folder).rows
    other = folder / "data_splits" / "person_data_split_combined.json"
    other.write_text(json.dumps({"train": ["1_7", "1_8"], "val": ["1_7"], "test": ["2_1", "2_2"]}))
    assert {clip[:1] for row in read_mistakes(other).rows for clip in row.clips} == {"2"}
    assert len(read_mistakes(other, "train").rows) == 2
    with pytest.raises(
        StepDiffError, match="no step in 'val' is done right and with a mistake; choose another"
    ):
        read_mistakes(other, "val")
    with pytest.raises(StepDiffError, match="done with a mistake and done right by others"):
        read_retrieval(folder, "train")
    with pytest.raises(
        StepDiffError, match=r"combined\.json: 'val' has no recordings; choose another file of"
    ):
        read_mistakes(folder, "val")


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        (changed(description=None), "recording 1: step_annotations: 0: description is missing"),
        (changed(end_time=float("inf")), "0: end_time is inf, not a number of seconds"),
        (changed(end_time=10**400), "0: end_time is 1000"),
        (changed(end_time=0.25), "recording 1_10, step 1 is from 0.5 to 0.25 seconds"),
        (
            changed(errors=[{"tag": "Taste Error", "description": "salty"}]),
            "tag should be 'Preparation', 'Me",
        ),
        (
            [RECORDINGS[0] | {"step_annotations": [3]}],
            "recording 1: step_annotations: 0 should be an object, not 3",
        ),
        (RECORDINGS[1:], "recordings_data_split_combined.json: '1_10' is not in"),
        (
            {},
            "not a list with at least one recording; get it again from "
            "github.com/CaptainCook4D/annotations",
        ),
    ],
)
def test_bad_annotations_are_refused_in_one_line(
    write: Callable[..., Path], recordings: Any, message: str
) -> None:
    with pytest.raises(StepDiffError, match=re.escape(message)) as caught:
        read_mistakes(write(recordings))
    assert "error_annotations.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("description", "instruction"),
    [
        ("Peel-Peel 1 garlic clove", "Peel 1 garlic clove"),
        ("Coat -Coat a 6-oz. ramekin cup", "Coat a 6-oz. ramekin cup"),
        ("season-pepper to taste", "season pepper to taste"),
        ("Scoop-While it cools, scoop 4 spoonfuls", "While it cools, scoop 4 spoonfuls"),
        ("whisk the eggs", "whisk the eggs"),
    ],
)
def test_a_description_becomes_an_instruction(description: str, instruction: str) -> None:
    assert (
        PerformedStep("1_1", "1", "3", description, "1_1_0_1", 0.0, 1.0, ()).instruction
        == instruction
    )


@pytest.mark.full
def test_methods_are_evaluated_and_mistakes_are_exported(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder, store = write(), Store.open(tmp_path / "features", create=True)
    clips = list(registry.get("captaincook-retrieval-flawed").clips(folder))
    made_by = Provenance("pixels", "0" * 64, "last", "2", "resize", {"embedding": "float32"})
    vectors = np.random.default_rng(0).standard_normal((len(clips), 4)).astype(np.float32)
    with store.lock():
        rows = {
            "key": [clip.clip for clip in clips],
            "step": [clip.metadata["step"] for clip in clips],
        }
        store.catalog("clips").append(pl.DataFrame(rows))
        view = store.create_view(
            "clips", "pixels", made_by, {"embedding": Feature((4,), "float32")}
        )
        view.resize()
        view.write_shard(0, np.arange(len(clips)), {"embedding": vectors}, {})
    recall = {}
    for method, more in (("vlemb", ["--view", "pixels"]), ("random", []), ("step-oracle", [])):
        out = tmp_path / f"{method}.jsonl"
        options = [
            "--task",
            "captaincook-retrieval",
            "--data",
            str(folder),
            "--store",
            str(store.path),
            *more,
        ]
        assert (
            evaluate.main([*options, "--method", method, "--out", str(out), "--bootstrap", "0"])
            == 0
        )
        scores = json.loads(out.with_suffix(".scores.json").read_text())["scores"]
        assert scores["rows"] == 7
        recall[method] = scores["recall@1"]
    assert recall["step-oracle"] == 1, "to find the step is enough"
    diffcap = tmp_path / "diffcap.jsonl"
    assert export.main(["--captaincook", str(folder), "--diffcap", str(diffcap)]) == 0
    assert read_test_set("diffcap", diffcap) == diffcap_rows(folder)[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--csv", "table.csv"], "--captaincook is annotations of its own; leave out --csv"),
        (
            ["answers.jsonl", "--diffcap", "made.jsonl"],
            "--captaincook is annotations of its own; leave out FILE",
        ),
        ([], "--captaincook needs --diffcap, the file to write"),
        (
            ["--diffcap", "made.jsonl", "--part", "train"],
            "no mistake of its part 'train' is a row; give another part",
        ),
    ],
)
def test_an_export_of_mistakes_refuses_other_options(
    write: Callable[..., Path], given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(export.main, [*given, "--captaincook", str(write())], capsys, message)
