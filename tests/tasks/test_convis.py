"""ConViS-Bench: of a small folder, and of the published files."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.convis import (
    CONCEPTS,
    clip_of,
    compare,
    export,
    read,
    read_answers,
    score,
)
from stepdiff_core.tasks.benchmarks.rows import Ranking
from tests.tasks.convis_files import Predicted, ceilings, ordinal_alphas, read_published_predictions

DATA = Path(__file__).parents[3] / "shared/data/convis"
NAMES = [concept.name for concept in CONCEPTS]
ACTION, LOCATION = "main action", "location"
PAIRS = [("1_000", "2_000"), ("1_000", "3_001"), ("2_000", "3_001"), ("4_000", "4_002")]
MEANS = [5.0, 1.5, 3.0, 2.0]
"""of the action of PAIRS"""


def answer(pair: tuple[str, str], person: str, action: int) -> dict[str, Any]:
    scores = {concept.key: "3" for concept in CONCEPTS} | {
        "MainAction": str(action),
        "Location": str(6 - action),
    }
    return {
        "video_pair_id": f"{pair[0]}.mp4-{pair[1]}.mp4",
        "user_id": person,
        "user_inputs": scores,
    }


def dump(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arguments = [
        (0, "a", 5),
        (0, "b", 5),
        (1, "a", 1),
        (1, "b", 2),
        (2, "a", 3),
        (3, "b", 1),
        (3, "a", 3),
    ]
    answers = [answer(PAIRS[place], person, action) for place, person, action in arguments]
    dump(tmp_path / "human_annotations/vicos.user_inputs.json", answers)
    rankings = {"1_000.mp4": ["2_000.mp4", "3_001.mp4"], "4_000.mp4": ["4_002.mp4", "1_000.mp4"]}
    dump(tmp_path / "human_annotations/to_be_ranked.json", rankings)
    return tmp_path


def predicted(path: Path, scores: dict[tuple[str, str], float]) -> Path:
    """Write a file of predictions in the authors' format."""
    videos = [
        (f"videos_trimmed/sports/{one}.mp4", f"{two}.mp4", value)
        for (one, two), value in scores.items()
    ]
    return dump(
        path, [{"video1": one, "video2": two, "similarity": value} for one, two, value in videos]
    )


def values_of(found: Predicted, concept: str) -> list[float]:
    return [
        p[0] for row, p in zip(found.rows, found.predictions, strict=True) if row.concept == concept
    ]


def test_the_truth_is_the_mean_of_all_answers_about_a_pair(folder: Path) -> None:
    task_data = registry.get("convis").read(folder)
    assert [(row.clips, row.concept) for row in task_data.rows] == [
        (pair, name) for pair in PAIRS for name in NAMES
    ]
    assert [task_data.truth[row.key] for row in task_data.rows if row.concept == ACTION] == MEANS
    assert [task_data.truth[row.key] for row in task_data.rows if row.concept == LOCATION] == [
        6 - mean for mean in MEANS
    ]
    assert task_data.notes == ("4 pairs, 7 answers of people",)


def test_a_flat_folder_reads_as_the_authors_repository(folder: Path) -> None:
    flat = folder / "flat"
    flat.mkdir()
    for file, name in (
        ("vicos.user_inputs.json", "user_inputs.json"),
        ("to_be_ranked.json", "to_be_ranked.json"),
    ):
        shutil.copy(folder / "human_annotations" / file, flat / name)
    for name in ("convis", "convis-retrieval"):
        assert registry.get(name).read(flat) == registry.get(name).read(folder)


def test_the_figures_are_correlations_of_each_concept_times_100(folder: Path) -> None:
    task_data = read(folder)
    ours = dict(zip(PAIRS, [4.0, 1.0, 2.0, 2.0], strict=True))
    scores = score(
        task_data.rows, [[ours[row.clips]] for row in task_data.rows], task_data.truth, 0
    )
    rho, tau = (100 * f([4, 1, 2, 2], MEANS).statistic for f in (stats.spearmanr, stats.kendalltau))
    assert scores["rho main action"] == pytest.approx(rho) and scores[
        "tau main action"
    ] == pytest.approx(tau)
    # its truths tie
    assert scores["rho location"] == pytest.approx(-rho) and scores["rho main objects"] is None
    both = {"rho": scores["rho location"], "tau": scores["tau location"]}
    assert scores["per_category"][LOCATION] == both | {"rows": 4, "missing": 0}
    assert (scores["task"], scores["rows"], scores["missing"], scores["videos"]) == (
        "convis",
        20,
        0,
        4,
    )
    assert scores["intervals"] == {}
    assert set(registry.get("convis").figures) <= set(scores)


def test_a_mean_over_concepts_has_all_five(folder: Path) -> None:
    task_data = read(folder)
    rows = [row for row in task_data.rows if row.concept in (ACTION, LOCATION)]
    values = [[float(len(row.concept) * (-1) ** i + i)] for i, row in enumerate(rows)]
    part = score(rows, values, task_data.truth, 20)
    assert (
        part["rho"] is None
        and part["intervals"]["rho"] is None
        and part["rho main action"] is not None
    )
    # a benchmark of two concepts
    whole = score(rows, values, {row.key: task_data.truth[row.key] for row in rows}, 20)
    assert whole["tau"] == pytest.approx((part["tau main action"] + part["tau location"]) / 2)
    assert len(whole["intervals"]["tau"]) == 2


def test_a_pair_without_a_prediction_is_not_scored_but_counted(folder: Path) -> None:
    task_data = read(folder)
    rows = [row for row in task_data.rows if row.concept == ACTION][:3]
    result = score(rows, [[2.0], [3.0], [1.0]], task_data.truth, 0)
    assert result["rho main action"] == pytest.approx(
        100 * stats.spearmanr([2, 3, 1], MEANS[:3]).statistic
    )
    assert (result["missing"], result["per_category"][ACTION]["missing"]) == (17, 1)
    assert result["rho location"] is None and result["per_category"][LOCATION]["missing"] == 4


def test_a_prediction_of_0_0_is_a_score(folder: Path) -> None:
    task_data = read(folder)
    ours = score(
        task_data.rows,
        [[0.0 if row.clips == PAIRS[0] else 1.0] for row in task_data.rows],
        task_data.truth,
        0,
    )
    assert ours["rho main action"] < 0


def test_exported_predictions_read_back_in_order_zeros_too(folder: Path, tmp_path: Path) -> None:
    task_data = read(folder)
    ours = [[-1.0], [0.0], [0.25], [0.0]]
    action = [row for row in task_data.rows if row.concept == ACTION]
    place = [row for row in task_data.rows if row.concept == LOCATION]
    (one,) = export(folder, [*action, *place], [*ours[:3], *[None] * 5], tmp_path / "part")
    assert len(json.loads(one.read_text())) == 3
    (one, two) = export(folder, [*action, *place], [*ours, *ours[::-1]], tmp_path / "mine")
    assert one == tmp_path / (
        "mine/computed_conditioned_similarities/Main_Action/mine/mine_Main_Action_similarities.json"
    )
    entry = json.loads(one.read_text())[0]
    assert entry == {
        "video1": "videos_trimmed/1_000.mp4",
        "video2": "videos_trimmed/2_000.mp4",
        "similarity": -1.0,
    }
    published = read_published_predictions(tmp_path / "mine/**/*.json", task_data.rows)
    assert published.missing == {name: 4 for name in (*NAMES[1:3], NAMES[4])}
    assert (
        stats.rankdata(values_of(published, ACTION)).tolist()
        == stats.rankdata(ours, axis=None).tolist()
    )
    assert values_of(published, LOCATION) == values_of(published, ACTION)[::-1] and two.is_file()


def test_the_videos_of_clips_come_from_the_published_list(folder: Path) -> None:
    benchmark = registry.get("convis")
    with pytest.raises(
        StepDiffError, match=r"has no ConVIS\.jsonl; get it from the data set .*, with the videos"
    ):
        list(benchmark.clips(folder))
    lines = [
        {"video1": f"videos_trimmed/diy/{one}.mp4", "video2": f"videos_trimmed/music/{two}.mp4"}
        for one, two in PAIRS
    ]
    (folder / "ConVIS.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = list(benchmark.clips(folder))
    assert [clip.clip for clip in files] == ["1_000", "2_000", "3_001", "4_000", "4_002"]
    assert (files[2].video, files[2].metadata) == (
        "videos_trimmed/music/3_001.mp4",
        {"domain": "music"},
    )


Broken = Callable[[list[dict[str, Any]]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "not a list with at least one answer"),
        (lambda rows: rows[0].pop("video_pair_id"), "answer 1: video_pair_id is missing"),
        (
            lambda rows: rows[1].update(video_pair_id="a_1_2.mp4-b_1.mp4"),
            "'a_1_2' is not a clip of ConViS-Bench",
        ),
        (
            lambda rows: rows[0]["user_inputs"].update(Location="6"),
            "answer 1: user_inputs: Location should be '1'",
        ),
        (
            lambda rows: rows[0]["user_inputs"].pop("OrderofActions"),
            "answer 1: user_inputs: OrderofActions is missing",
        ),
    ],
)
def test_a_damaged_file_of_answers_is_refused_in_one_line(
    folder: Path, change: Broken, message: str
) -> None:
    file = folder / "human_annotations/vicos.user_inputs.json"
    rows = json.loads(file.read_text())
    changed = change(rows)
    dump(file, changed if changed == [] else rows)
    with pytest.raises(StepDiffError) as caught:
        read(folder)
    assert (
        message in str(caught.value)
        and str(file) in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert "get" in str(caught.value) and "github.com/benedettaliberatori/convisbench" in str(
        caught.value
    )


def test_an_empty_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        StepDiffError,
        match=r"has no human_annotations/vicos.user_inputs.json or user_inputs.json; get",
    ):
        read(tmp_path)


@pytest.fixture
def published_folder() -> Path:
    if not DATA.is_dir():
        pytest.skip("the files of ConViS-Bench are not here")
    return DATA


PUBLISHED_FILES = [
    ("LLaVA-OneVision-7B", "predictions/LLaVA-OneVision-Qwen2-7B_*.json"),
    ("CLIPScore, InternVideo-MM-L-14", "predictions/global_InternVideo-MM-L-14.json"),
    ("cosine, DINOv2-L", "predictions/global_dinov2-large.json"),
    ("Gemini-2.0-Flash", "predictions/Gemini-2.0-Flash_*.json"),
]


@pytest.mark.full
@pytest.mark.parametrize(("method", "files"), PUBLISHED_FILES)
def test_published_predictions_have_the_published_figures(
    published_folder: Path, method: str, files: str
) -> None:
    task_data = read(published_folder)
    results = read_published_predictions(str(published_folder / files), task_data.rows)
    result = score(results.rows, results.predictions, task_data.truth, 0)
    (row,) = [row for row in registry.get("convis").published if row.method == method]
    assert {name: round(result[name], 1) for name in row.figures} == row.figures
    without = 337 if method == "Gemini-2.0-Flash" else 0
    assert (result["missing"], result["per_category"][LOCATION]["rows"]) == (without, 610 - without)
    assert results.missing == ({LOCATION: 337} if without else {})


@pytest.mark.full
def test_the_truth_equals_the_published_means(published_folder: Path) -> None:
    task_data = read(published_folder)
    assert (len(task_data.rows), len({clip for row in task_data.rows for clip in row.clips})) == (
        3050,
        543,
    )
    entries = json.loads((published_folder / "gt_conditioned_similarities.json").read_text())
    keys = {concept.name: concept.file.replace("_", "") for concept in CONCEPTS}
    published = {
        (clip_of(entry["video1"]), clip_of(entry["video2"])): entry["conditioned_similarity"]
        for entry in entries
    }
    assert [task_data.truth[row.key] for row in task_data.rows] == [
        published[row.clips][keys[row.concept]] for row in task_data.rows
    ]
    assert sum(map(len, read_answers(published_folder).values())) == 3808


@pytest.mark.full
def test_people_agree_as_published(published_folder: Path) -> None:
    file = published_folder / "user_inputs.json"
    assert [round(own, 3) for own in ordinal_alphas(file)] == [0.322, 0.244, 0.288, 0.361, 0.319]
    assert ceilings(file) == pytest.approx([0.85, 0.77, 0.84, 0.86, 0.84], abs=0.01)


RETRIEVAL = registry.get("convis-retrieval")


@pytest.mark.full
def test_targets_with_equal_scores_share_a_rank() -> None:
    for ours, theirs in itertools.product(itertools.product((1.0, 2.0, 3.0), repeat=4), repeat=2):
        if ours[0] < 2 or theirs[0] < 2:  # a third of all cases is enough
            continue
        best = {i for i in range(4) if ours[i] == max(ours)}
        right = {i for i in range(4) if theirs[i] == max(theirs)}
        precision, recall, f1, tau = compare(ours, theirs)
        assert (precision, recall) == (
            len(best & right) / len(best),
            len(best & right) / len(right),
        )
        assert f1 == pytest.approx(2 * len(best & right) / (len(best) + len(right)))
        if min(len(set(ours)), len(set(theirs))) > 1:
            assert tau == pytest.approx(stats.kendalltau(ours, theirs).statistic)


def test_a_clip_with_an_unscored_pair_is_not_a_row(folder: Path) -> None:
    task_data = RETRIEVAL.read(folder)
    assert {(row.reference, row.targets) for row in task_data.rows} == {
        ("1_000", ("2_000", "3_001"))
    }
    assert len(task_data.rows) == 5 and task_data.truth["1_000: main action"] == [5.0, 1.5]
    assert task_data.notes == (
        "1 of 2 lists, those whose pairs all have scores; their own ranking is not published",
    )


def test_a_pair_counts_in_both_orders(folder: Path) -> None:
    one, two = PAIRS[0]
    dump(
        folder / "human_annotations/to_be_ranked.json", {f"{two}.mp4": [f"{one}.mp4", "3_001.mp4"]}
    )
    assert RETRIEVAL.read(folder).truth[f"{two}: main action"] == [5.0, 3.0]


def test_a_row_without_a_tau_does_not_count_in_tau() -> None:
    rows = [Ranking(name, name, ("1_0", "1_1"), "location") for name in ("a", "b")]
    truth = {"a": [1.0, 2.0], "b": [2.0, 2.0]}
    scores = RETRIEVAL.score(rows, [[1.0, 2.0], [2.0, 1.0]], truth, 0, 0)
    assert (scores["tau"], scores["rows_with_tau"]) == (pytest.approx(100), 1)
    assert (scores["P@1"], scores["R@1"], scores["F1@1"]) == (
        100,
        75,
        pytest.approx(100 * (1 + 2 / 3) / 2),
    )
    assert scores["per_category"]["location"]["rows"] == 2
    assert scores["chance"] == {
        "P@1": 75,
        "R@1": 50,
        "F1@1": pytest.approx(100 * (1 / 2 + 2 / 3) / 2),
        "tau": 0,
    }


@pytest.mark.parametrize(
    "content", [[], {"1_0.mp4": []}, {"1_0.mp4": [3]}, {"a_1_2.mp4": ["1_0.mp4"]}]
)
def test_a_damaged_list_is_refused_in_one_line(folder: Path, content: object) -> None:
    file = dump(folder / "human_annotations/to_be_ranked.json", content)
    with pytest.raises(
        StepDiffError, match="get the file again from github.com/benedettaliberatori/convisbench"
    ) as caught:
        RETRIEVAL.read(folder)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.full
def test_54_of_the_133_published_lists_have_scores() -> None:
    if not DATA.is_dir():
        pytest.skip("the files of ConViS-Bench are not here")
    task_data = RETRIEVAL.read(DATA)
    assert len(json.loads((DATA / "to_be_ranked.json").read_text())) == 133
    assert len(task_data.rows) == 54 * 5 and {len(row.targets) for row in task_data.rows} == {4}
    truth = RETRIEVAL.score(
        task_data.rows, [task_data.truth[row.key] for row in task_data.rows], task_data.truth, 0, 0
    )
    assert [truth[name] for name in ("P@1", "R@1", "F1@1", "tau")] == pytest.approx([100] * 4)
    level = RETRIEVAL.score(task_data.rows, [[1.0] * 4] * 270, task_data.truth, 0, 0)
    assert level["R@1"] == 100 and level["P@1"] < 50 and level["tau"] is None
