"""VidDiffBench, closed and open, against scorers written from its description."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks import viddiff as closed
from stepdiff_core.tasks.benchmarks import viddiff_open as opened
from stepdiff_core.tasks.benchmarks.judging import Conversation, Judge
from stepdiff_core.tasks.benchmarks.viddiff import clips, read_samples
from stepdiff_core.tasks.benchmarks.viddiff_open import (
    match_by_cosine,
    parse_differences,
    parse_matching,
    parse_opposites,
)
from stepdiff_core.tasks.registry import TaskData
from tests.tasks.viddiff_files import SPLITS, TRUTHS, benchmark, entry, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return benchmark(tmp_path / "viddiff")


def test_a_statement_without_a_video_is_not_asked_about(folder: Path) -> None:
    task_data = registry.get("viddiff-closed").read(folder)
    expected = [
        f"{SPLITS[number % 3]}_{number}/{key}"
        for number, truth in enumerate(TRUTHS)
        for key, letter in truth.items()
        if letter in ("a", "b")
    ]
    assert [row.key for row in task_data.rows] == expected == list(task_data.truth)
    first = task_data.rows[0]
    assert first.clips == ("videos/0_0.mp4_0.500_3.000", "videos/0_1.mp4_0.500_3.000")
    assert (
        "a person squats once. Of which" in first.question
        and '"statement 0 of 0"' in first.question
    )
    assert first.about == "statement 0 of 0"
    assert (
        len(first.options) == 2 and "Video 1" in first.options[0] and "Video 2" in first.options[1]
    )
    assert task_data.notes[0] == "6 pairs, 14 annotated statements (6 a, 6 b, 2 c; c is not scored)"


def test_clips_are_slices_of_frames_in_seconds(folder: Path) -> None:
    files = list(clips(folder))
    assert len(files) == 12 == len({clip.clip for clip in files})
    assert (files[2].video, files[2].start, files[2].end) == ("videos/1_0.mp4", 0.5, 91 / 30)
    assert files[2].metadata == {"domain": "surgery", "kind": "video", "fps": "30"}


def test_a_folder_of_images_and_an_open_slice_are_clips_too(tmp_path: Path) -> None:
    videos = [
        {"path": "dive/01/frames", "fps_original": 12.5, "frames_trim": [25, None]},
        {"path": "dive/02/frames", "fps_original": 12.5, "frames_trim": [None, None]},
    ]
    more = {"videos": json.dumps(videos), "domain": None}
    first, second = clips(write(tmp_path, [entry(0, {"0": "a"}, "easy", **more)]))
    assert (first.clip, first.start, first.end) == ("dive/01/frames_2.000_end", 2.0, None)
    assert (second.clip, second.start, second.end) == ("dive/02/frames", None, None)
    assert first.metadata == {"domain": "humman", "kind": "folder of images", "fps": "12.5"}


def naive_accuracy(said: dict[str, str], split: str | None) -> float:
    """Correct / gt in {a, b}, pooled over statements."""
    right = total = 0
    for number, truth in enumerate(TRUTHS):
        if split in (None, SPLITS[number % 3]):
            for key, letter in truth.items():
                if letter in ("a", "b"):
                    total += 1
                    right += said.get(f"{SPLITS[number % 3]}_{number}/{key}") == letter
    return right / total


def test_accuracy_is_pooled_and_averaged_over_splits(folder: Path) -> None:
    task_data = closed.read(folder)
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.normal(size=(len(task_data.rows), 2))
        figures = closed.score(task_data.rows, scores.tolist(), task_data.truth, 50, 0)
        replies = {
            row.key: "ab"[own.argmax()] for row, own in zip(task_data.rows, scores, strict=True)
        }
        each = [naive_accuracy(replies, split) for split in SPLITS]
        assert [figures[split] for split in SPLITS] == pytest.approx(each)
        assert figures["average"] == pytest.approx(np.mean(each))
        assert figures["accuracy"] == pytest.approx(naive_accuracy(replies, None))
        assert figures["per_category"]["fitness"]["accuracy"] == pytest.approx(each[0])
        assert (
            figures["per_category"].keys() == {"fitness", "surgery"}
            and "easy" not in figures["per_category"]["fitness"]
        )
        assert figures["groups"] == 6 and set(figures["chance"].values()) == {0.5}


def test_a_missing_prediction_counts_wrong(folder: Path) -> None:
    task_data = closed.read(folder)
    marks: dict[str, list[float]] = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    right: list[list[float] | None] = [
        marks[task_data.truth[row.key].letter] for row in task_data.rows
    ]
    figures = closed.score(task_data.rows, right, task_data.truth, 0, 0)
    assert figures["accuracy"] == 1.0 and "missing" not in figures
    figures = closed.score(task_data.rows, [None, *right[1:]], task_data.truth, 0, 0)
    assert (figures["accuracy"], figures["missing"]) == (pytest.approx(11 / 12), 1)
    assert closed.score(task_data.rows, [None] * 12, task_data.truth, 0, 0)["average"] == 0.0


def test_exported_predictions_are_letters_by_pair_and_statement(
    folder: Path, tmp_path: Path
) -> None:
    task_data = closed.read(folder)
    scores = np.random.default_rng(1).normal(size=(len(task_data.rows), 2)).tolist()
    files = closed.export(folder, task_data.rows, scores, tmp_path / "out")
    listed, by_key = (json.loads(file.read_text()) for file in files)
    assert list(by_key.values()) == listed and list(by_key) == [
        sample.key for sample in read_samples(folder)
    ]
    letters = {
        f"{pair}/{key}": letter for pair, own in by_key.items() for key, letter in own.items()
    }
    assert letters == {
        row.key: "ab"[own.index(max(own))] for row, own in zip(task_data.rows, scores, strict=True)
    }
    assert len(listed) == 6 and listed[2].keys() == {"1"}


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        StepDiffError, match=r"has no test-\*\.parquet; get it from the folder data of jmhb"
    ):
        closed.read(tmp_path)
    good = entry(0, {"0": "a"}, "easy")
    wrong = {
        "split should be 'easy', 'medium' or 'hard', not 'x'": good | {"split": "x"},
        "differences_gt is not JSON": good | {"differences_gt": "{"},
        "differences_gt: 0 should be 'a', 'b' or 'c', not 'd'": good
        | {"differences_gt": '{"0": "d"}'},
        "differences_annotated has no '1'": good | {"differences_gt": '{"1": "a"}'},
        "holds no frame": good
        | {
            "videos": json.dumps(
                {s: {"path": "p", "fps_original": 3, "frames_trim": [4, 4]} for s in "01"}
            )
        },
        "frames_trim: 1 should be less than 1000000000000, not 1000": good
        | {
            "videos": json.dumps(
                {s: {"path": "p", "fps_original": 3, "frames_trim": [0, 10**400]} for s in "01"}
            )
        },
        "fps_original should be greater than 0, not 0": good
        | {
            "videos": json.dumps(
                {s: {"path": "p", "fps_original": 0, "frames_trim": [0, 4]} for s in "01"}
            )
        },
    }
    for number, (message, row) in enumerate(wrong.items()):
        with pytest.raises(StepDiffError) as caught:
            closed.read(write(tmp_path / str(number), [row]))
        assert (
            message in str(caught.value)
            and "\n" not in str(caught.value)
            and "again" in str(caught.value)
        )
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/test-x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StepDiffError, match="test-x.parquet: not a whole Parquet file"):
        closed.read(tmp_path / "damaged")
    with pytest.raises(StepDiffError, match="is there twice"):
        closed.read(write(tmp_path / "twice", [good, good]))
    with pytest.raises(StepDiffError, match="pair 'easy_0' has no n_differences_open_prediction"):
        opened.read(write(tmp_path / "open", [good | {"n_differences_open_prediction": None}]))


@pytest.mark.parametrize(
    "text",
    [
        '[{"description": "the knees bend less", "video": 2}, {"description": "arms up", "video": '
        '"Video 1"}]',
        'Here:\n```json\n{"0": {"description": "the knees bend less", "prediction": "b"},\n'
        '"1": {"description": "arms up", "prediction": "a"}}\n```\nDone.',
        '{"differences": [{"description": "the knees bend less", "video": 2}, {"description": '
        '"arms up", "video": 1}]}',
        'Looking at [1] and [2]: [{"description": "the knees bend less", "video": 2},\n'
        '{"description": "arms up", "video": 1}]',
        '<think>use a list [] or {}</think>{"description": "the knees bend less", "video": 2}\n'
        '{"description": "arms up", "video": 1}',
        "1. the knees bend less (Video 2)\n2) arms up - video 1",
        "- the knees bend less: b\n\n* arms up | a",
        "Video 2: the knees bend less\nvideo 1 - arms up",
        "the knees bend less [Video 2]\narms up [1]",
        "the knees bend less (more true of Video 2).\narms up -> Video 1",
    ],
)
def test_differences_are_read_from_json_and_lines(text: str) -> None:
    parsed = parse_differences(text, 3)
    assert [(own.description, own.letter) for own in parsed.differences] == [
        ("the knees bend less", "b"),
        ("arms up", "a"),
    ]
    assert (parsed.unparsed, parsed.excess) == (0, 0)


def test_what_cannot_be_parsed_is_counted() -> None:
    parsed = parse_differences("Nothing differs.\nThe left arm is a\nthe knees bend: 2\nx: 3", 3)
    assert [own.description for own in parsed.differences] == [
        "the knees bend"
    ] and parsed.unparsed == 3
    parsed = parse_differences(
        '[{"description": "x", "video": 3}, {"description": " ", "video": 1}, "y", {"video": 1}]'
    )
    assert (parsed.differences, parsed.unparsed) == ((), 4)
    many = json.dumps([{"description": f"d{i}", "video": 1} for i in range(5)])
    parsed = parse_differences(many, 3)
    assert (len(parsed.differences), parsed.unparsed, parsed.excess) == (3, 0, 2)
    none = ("", "[]", " {} ", '{"differences": []}', "```json\n[\n]\n```")
    assert [parse_differences(text).unparsed for text in (*none, "[1]")] == [0, 0, 0, 0, 0, 1]


def test_differences_in_lines_or_in_a_cut_list_are_read() -> None:
    one, two = '{"description": "low", "video": 1}', '{"description": "fast", "video": 2}'
    for text in (
        f"{one}\n{two}",
        f"```json\n[{one},\n{two},\n" + '{"description": "no',
        f"{one} and {two} [2]",
    ):
        parsed = parse_differences(text)
        assert [(own.description, own.letter) for own in parsed.differences] == [
            ("low", "a"),
            ("fast", "b"),
        ]


@pytest.mark.full
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "x" + " " * 50_000 + "y",
        '[{"description": "a", "video": "' + "!" * 50_000 + 'x"}]',
        "[" * 100_000,
    ],
    ids=["spaces", "marks", "brackets"],
)
def test_a_hostile_text_is_parsed_in_seconds(text: str) -> None:
    assert not parse_differences(text).differences


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ('{"matches": [{"key_dict0": ["0"], "key_dict1": "0"}]}', "error"),
        ('{"matches": [{"key_dict0": 0, "key_dict1": 1}]}', 1),
        ('{"0": "' + "1" * 5000 + '"}', None),
        ('{"0": [{"0": 1}]}', None),
    ],
)
def test_no_answer_of_a_judge_ends_the_run(said: str, match: int | str | None) -> None:
    assert parse_matching(said, ["0"], 2) == {"0": match}


def model(said: Callable[[str], str]) -> Judge:
    """Return a judge whose language model answers with a function of its last message."""

    def ask(conversations: Sequence[Conversation]) -> Any:
        return enumerate(said(conversation[-1]["content"]) for conversation in conversations)

    return Judge("fake", ask)


STATEMENTS = {"0": "low", "1": "slow", "2": "bright", "3": "near"}
PREDICTED = [("far", "a"), ("lower", "a"), ("fast", "b"), ("red", "b")]


def sample_folder(tmp_path: Path) -> Path:
    """One pair: near is c, bright has no match; far and fast are opposites."""
    annotated = {key: {"description": text} for key, text in STATEMENTS.items()}
    truth = {"0": "a", "1": "a", "2": "b", "3": "c"}
    more = {"differences_annotated": json.dumps(annotated), "n_differences_open_prediction": 4}
    return write(tmp_path, [entry(0, truth, "easy", **more)])


TEXT = json.dumps([{"description": text, "prediction": letter} for text, letter in PREDICTED])
OPPOSITE = {("near", "far"), ("slow", "fast")}
VECTORS = {"low": 0, "lower": 0, "slow": 1, "fast": 1, "near": 2, "far": 2, "bright": 3, "red": 4}


def judging(prompt: str) -> str:
    if "List 0" in prompt:
        assert (
            json.dumps(STATEMENTS) in prompt
            and '"3": "red"' in prompt
            and '["0", "1", "2", "3"]' in prompt
        )
        return 'I think: {"0": "1", "1": "2", "2": "None", "3": "0"}'
    pairs = eval(prompt.split("Pairs: ")[1])
    return json.dumps({"results": [str(int(tuple(pair) in OPPOSITE)) for pair in pairs]})


def embed(texts: Sequence[str]) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[[VECTORS[text] for text in texts]]


def agrees(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    return [(statement, premise) not in OPPOSITE for premise, statement in pairs]


def test_both_ways_match_and_exchange_opposites(tmp_path: Path) -> None:
    task_data = opened.read(sample_folder(tmp_path))
    assert (
        "Write at most 4 differences" in task_data.rows[0].prompt
        and task_data.rows[0].key == "easy_0"
    )
    judge = replace(model(judging), embed=embed, agrees=agrees)
    (verdict,) = opened.judged(task_data, [TEXT], judge)
    right = {"0": "a", "1": "a", "2": None, "3": "b"}
    assert verdict == {"lm": right, "ours": right, "unparsed": 0, "excess": 0}
    scores = opened.score(task_data.rows, [verdict], task_data.truth, 10, 0)
    assert (scores["recall"], scores["err_nomatch"], scores["err_flipped"]) == pytest.approx(
        (2 / 3, 1 / 3, 0)
    )
    assert scores["recall_ours"] == scores["recall"] == scores["easy"]
    assert scores["average"] is None  # two splits are absent
    ours = opened.judged(task_data, [TEXT], Judge("none", embed=embed, agrees=agrees))
    assert ours == [{"ours": right, "unparsed": 0, "excess": 0}]
    assert "recall" not in opened.score(task_data.rows, ours, task_data.truth, 0, 0)
    with pytest.raises(StepDiffError, match="need a judge: give --judge MODEL"):
        opened.judged(task_data, [TEXT], Judge("none", embed=embed))
    with pytest.raises(StepDiffError, match="no verdict on its text"):
        opened.score(task_data.rows, [TEXT], task_data.truth, 0, 0)  # type: ignore[list-item]


def test_a_statement_without_a_difference_is_not_scored(tmp_path: Path) -> None:
    """With one prediction, which is about the statement without a difference, nothing else is
    matched."""
    task_data = opened.read(sample_folder(tmp_path))
    text = json.dumps([{"description": "far", "video": 1}])
    (verdict,) = opened.judged(task_data, [text], Judge("none", embed=embed, agrees=agrees))
    assert verdict["ours"] == {"0": None, "1": None, "2": None, "3": "b"}
    assert opened.score(task_data.rows, [verdict], task_data.truth, 0, 0)["err_nomatch_ours"] == 1.0


def test_predictions_match_statements_one_to_one() -> None:
    """The assignment has the highest sum of cosines, against all assignments."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = rng.integers(0, 4, 2)
        cosine = rng.uniform(-1, 1, (rows, columns)).round(2)
        matches = match_by_cosine(cosine, 0.3)
        assert len(set(matches.values())) == len(matches) and all(
            cosine[pair] >= 0.3 for pair in matches.items()
        )
        padded = np.pad(np.where(cosine >= 0.3, cosine, 0), ((0, columns), (0, rows)))
        best = max(
            sum(padded[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(len(padded)))
        )
        assert sum(cosine[pair] for pair in matches.items()) == pytest.approx(best)


def naive_recall(
    task_data: TaskData, letters: list[dict[str, str | None]], split: str | None
) -> list[float]:
    """Recall, no match, wrong video and judge's errors over gt in {a, b}."""
    counts = [0, 0, 0, 0]
    for row, own in zip(task_data.rows, letters, strict=True):
        sample = task_data.truth[row.key]
        for key, statement in sample.statements.items():
            if statement.truth in ("a", "b") and split in (None, sample.split):
                replies = own[key]
                place = (
                    0
                    if replies == statement.truth
                    else 1
                    if replies is None
                    else 3
                    if replies == "error"
                    else 2
                )
                counts[place] += 1
    return [count / sum(counts) for count in counts]


def test_recall_and_errors_sum_to_one(folder: Path) -> None:
    task_data = opened.read(folder)
    rng = np.random.default_rng(0)
    names = ("recall", "err_nomatch", "err_flipped", "err_judge")
    for _ in range(20):
        letters: list[dict[str, Any]] = [
            {
                key: rng.choice(["a", "b", None, "error"])
                for key in task_data.truth[row.key].statements
            }
            for row in task_data.rows
        ]
        verdicts = [{"lm": own, "unparsed": 1, "excess": 2} for own in letters]
        scores = opened.score(task_data.rows, verdicts, task_data.truth, 0, 0)
        assert [scores[name] for name in names] == pytest.approx(
            naive_recall(task_data, letters, None)
        )
        each = [naive_recall(task_data, letters, split)[0] for split in SPLITS]
        assert [scores[split] for split in SPLITS] == pytest.approx(each)
        assert scores["average"] == pytest.approx(np.mean(each))
        assert scores["per_category"]["fitness"]["recall"] == pytest.approx(each[0])
        assert sum(scores[name] for name in names) == pytest.approx(1)
        assert (scores["unparsed"], scores["excess"]) == (6, 12)


def test_an_answer_of_another_form_is_an_error(tmp_path: Path) -> None:
    keys = ["0", "10", "2"]
    assert parse_matching("no JSON", keys, 3) == dict.fromkeys(keys, "error")
    assert parse_matching('{"0": "1", "2": 1}', keys, 3) == {"0": 1, "2": None, "10": "error"}
    assert parse_matching('{"0": "7", "2": "none", "10": "2"}', keys, 3) == {
        "0": None,
        "2": None,
        "10": 2,
    }
    assert parse_matching('The keys ["0","1"] match: {"0":"1","1":"None"}', ["0", "1"], 3) == {
        "0": 1,
        "1": None,
    }
    structured = {"matches": [{"key_dict0": key, "key_dict1": "2"} for key in keys]}
    assert parse_matching(json.dumps(structured), keys, 3) == {"0": 2, "2": None, "10": None}
    assert (
        parse_opposites('{"results": ["1", 0]}', 2) == [True, False]
        and parse_opposites("[1, 0]", 3) is None
    )
    assert parse_opposites('For the pairs [0] and [1]: {"results": ["0", "1"]}', 2) == [False, True]
    assert parse_opposites('For the pair [0]: {"results": ["1"]}', 1) == [True]
    assert (
        parse_opposites('{"results": ["1", "x"]}', 2) is None and parse_opposites(None, 1) is None
    )

    alone: list[int] = []

    def said(prompt: str) -> str:
        if "List 0" in prompt:
            return judging(prompt)
        pairs = eval(prompt.split("Pairs: ")[1])
        alone.append(len(pairs))
        return "?" if len(pairs) > 1 or pairs[0][0] == "low" else judging(prompt)

    task_data = opened.read(sample_folder(tmp_path))
    (verdict,) = opened.judged(task_data, [TEXT], model(said))
    assert verdict["lm"] == {"0": "error", "1": "a", "2": None, "3": "b"} and alone == [3, 1, 1, 1]


def test_the_prompts_are_the_authors_if_their_file_is_there(tmp_path: Path) -> None:
    folder = sample_folder(tmp_path)
    assert "the judge's prompts are ours" in opened.read(folder).notes[1]
    code = 'import nothing\nprompt_open_eval_matching = """\\\nmatch {differences0}"""\n'
    (folder / "eval_viddiff.py").write_text(code)
    with pytest.raises(
        StepDiffError,
        match="has no text prompt_open_eval_check_opposite; get it again or remove it",
    ):
        opened.read(folder)
    (folder / "eval_viddiff.py").write_text(
        code + 'prompt_open_eval_check_opposite = "check {statements}"\n'
    )
    task_data = opened.read(folder)
    assert task_data.prompts == {
        "matching": "match {differences0}",
        "opposites": "check {statements}",
    }
    assert "the authors'" in task_data.notes[1]


def test_six_pairs_are_judged_in_one_question(folder: Path) -> None:
    """Across pairs of videos, as published."""
    task_data = opened.read(folder)
    counts: list[int] = []

    def said(prompt: str) -> str:
        if "List 0" in prompt:
            keys = list(json.loads(prompt.split("List 0: ")[1].split("\n")[0]))
            return json.dumps({key: str(place) for place, key in enumerate(keys)})
        counts.append(len(eval(prompt.split("Pairs: ")[1])))
        return json.dumps({"results": ["0"] * counts[-1]})

    texts = [
        json.dumps([{"description": f"d{i}", "video": 1} for i in range(3)]) for _ in task_data.rows
    ]
    verdicts = opened.judged(task_data, texts, model(said))
    assert counts == [6, 6, 1]  # three of the four statements of a pair have a prediction
    scores = opened.score(task_data.rows, verdicts, task_data.truth, 0, 0)
    assert scores["err_nomatch"] == pytest.approx(1 / 12) and scores["recall"] == pytest.approx(
        6 / 12
    )


def test_exported_differences_are_those_of_the_texts(folder: Path, tmp_path: Path) -> None:
    task_data = opened.read(folder)
    texts = ["the knees bend less (Video 2)\narms up: a", *[""] * 5]
    assert (
        json.loads(
            opened.export(folder, task_data.rows, [None, *texts[:5]], tmp_path / "part")[
                0
            ].read_text()
        )[0]
        == {}
    )
    listed, by_key = (
        json.loads(file.read_text())
        for file in opened.export(folder, task_data.rows, texts, tmp_path)
    )
    replies = [
        {"description": "the knees bend less", "prediction": "b"},
        {"description": "arms up", "prediction": "a"},
    ]
    assert listed == [{"0": replies[0], "1": replies[1]}, *[{}] * 5] and list(by_key) == [
        row.key for row in task_data.rows
    ]
    many = "\n".join(f"{number} knees (Video 1)" for number in range(4))
    assert (
        len(
            json.loads(opened.export(folder, task_data.rows, [many] * 6, tmp_path)[0].read_text())[
                0
            ]
        )
        == 3
    )
    assert (
        listed[0]["0"] == {"description": "the knees bend less", "prediction": "b"}
        and listed[1] == {}
    )


def test_published_rows_have_figures_of_the_table() -> None:
    for name in ("viddiff-closed", "viddiff-open"):
        spec = registry.get(name)
        assert all(set(own.figures) <= set(spec.figures) for own in spec.published)
        for own in spec.published:
            each = [own.figures[split] for split in SPLITS]
            assert own.figures["average"] == pytest.approx(np.mean(each), abs=6e-4)
