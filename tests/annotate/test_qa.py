"""Pairs of clips and the questions about them: choice, prompts, parsing, rules, both orders, and
the command."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heads.data.hold_out import BY_ID, BY_OVERLAP, BY_VIDEO
from heads.data.paired_qa import read_paired_qa
from heads.llm.model import LLMOptions, Sampling
from heads.methods.similarity import MODEL
from stepdiff.annotate import pairqa, pairs
from stepdiff.annotate.pairs import PairsOptions, run
from stepdiff.annotate.qa import prompts
from stepdiff.annotate.qa import questions as qa_rules
from stepdiff.annotate.qa import reading as parsing
from stepdiff.annotate.qa.pair_choice import SCHEMA, same_step
from stepdiff.annotate.qa.prompts import DESCRIBE, PAIRQA, Prompt, read_prompt
from stepdiff.annotate.qa.questions import (
    ALIKE,
    SIMILAR,
    UNANSWERED,
    Ledger,
    PairQAJob,
    compose,
    first_of_alike,
    item_key,
    items,
    rule_checked,
)
from stepdiff.annotate.qa.reading import (
    QA,
    Dropped,
    Reading,
    named,
    names_one,
    read_pairs,
    read_yes_no,
    turned,
    unsure,
)
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.tasks.prompts import SYSTEM
from stepdiff_core.weights import resolve
from store import Store
from tests.llm_server import Reply, Server, said
from tests.refusals import refuses

from .conftest import CLIPS


def clip_row(
    video: str, start: int, step: str | None, split: str = "train", step_id: int = 0
) -> dict[str, Any]:
    return {
        "key": f"{video}_{start}_{start + 5}",
        "video": f"videos/{video}.mp4",
        "start": float(start),
        "end": float(start + 5),
        "step": step,
        "step_id": step_id,
        "split": split,
    }


CATALOG = [
    *(clip_row(f"v{i}", 0, "whisk", step_id=1 + i % 2) for i in range(8)),
    *(clip_row(f"v{i}", 10, "pour", step_id=3) for i in range(4)),
    clip_row("v0", 20, "chop", step_id=4),
    clip_row("v1", 20, "bake", step_id=5),
    clip_row("v1", 30, "bake", step_id=5),  # a step of one video
    clip_row("v2", 20, "Whisk", step_id=6),  # another step with the same name
    clip_row("w0", 0, "whisk", "test"),
    clip_row("w1", 0, "whisk", "val"),
    clip_row("w2", 0, None),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store.open(tmp_path / "features", create=True)
    store.catalog("clips").append(pl.DataFrame(CATALOG[:5]))
    store.catalog("clips").append(pl.DataFrame(CATALOG[5:]))
    return tmp_path


def chosen_pairs(folder: Path, **more: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    options = {
        "store": str(folder / "features"),
        "out": str(folder / "pairs.parquet"),
        "cap": 100,
        **more,
    }
    record = run(PairsOptions(**options))
    return pl.read_parquet(folder / "pairs.parquet"), record


def clips_of(frame: pl.DataFrame) -> set[str]:
    return {*frame["reference"], *frame["candidate"]}


def test_pairs_are_of_two_videos_and_other_pairs_of_two_steps(folder: Path) -> None:
    frame, record = chosen_pairs(folder, other=0.3)
    assert frame.schema == SCHEMA and frame["pair"].to_list() == list(range(frame.height))
    by_key = {row["key"]: row for row in CATALOG}
    for row in frame.iter_rows(named=True):
        one, two = by_key[row["reference"]], by_key[row["candidate"]]
        assert one["video"] != two["video"]
        assert (row["reference_step"], row["candidate_step"]) == (one["step"], two["step"])
        assert row["same_step"] == (one["step"] == two["step"])
        assert row["same_step"] or one["step"].lower() != two["step"].lower()
    assert record["pairs"] == 8 * 7 // 2 + 4 * 3 // 2 == frame["same_step"].sum()
    assert record["other_step_pairs"] == (~frame["same_step"]).sum() == round(34 * 0.3 / 0.7)
    assert chosen_pairs(folder, cap=3)[1]["pairs"] == 6


def test_a_step_is_a_value_of_the_column(folder: Path) -> None:
    frame, record = chosen_pairs(folder, step="step_id", other=0.5)
    assert record["pairs"] == 2 * (4 * 3 // 2) + 4 * 3 // 2
    others = frame.filter(~pl.col("same_step"))
    assert (
        others.height
        and (
            others["reference_step"].str.to_lowercase()
            != others["candidate_step"].str.to_lowercase()
        ).all()
    )


def test_clips_of_other_splits_and_test_clips_are_in_no_pair(folder: Path) -> None:
    row = {"reference": "v0_0_5", "candidate": "v3_2.5_3", "category": "Visuals", "text": ["x"]}
    (folder / "diffcap.jsonl").write_text(json.dumps(row))
    rank = {"reference": "v4_4.99_50", "targets": ["v5_5_9"], "category": "Visuals", "scores": [3]}
    (folder / "diffrank.jsonl").write_text(json.dumps(rank))
    files = (f"{folder}/diffcap.jsonl", f"{folder}/diffrank.jsonl")
    frame, record = chosen_pairs(folder, other=0.5, hold_out=files, hold_out_by="clip")
    assert clips_of(frame) & {"v0_0_5", "v3_0_5", "v4_0_5", "w0_0_5", "w1_0_5", "w2_0_5"} == set()
    assert "v5_0_5" in clips_of(frame)  # it only touches a test clip
    assert record["left_out"] == {
        "no step": 1,
        "not of the train split": 2,
        BY_ID: 1,
        BY_OVERLAP: 2,
        BY_VIDEO: 0,
    }
    assert record["pairs"] == 5 * 4 // 2 + 4 * 3 // 2
    frame, record = chosen_pairs(folder, other=0.5, hold_out=files)
    assert not {clip_row.rsplit("_", 2)[0] for clip_row in clips_of(frame)} & {
        "v0",
        "v3",
        "v4",
        "v5",
    }
    # v5_0_5, v0_10_15, v3_10_15, v0_20_25
    assert (
        record["left_out"][BY_ID],
        record["left_out"][BY_OVERLAP],
        record["left_out"][BY_VIDEO],
    ) == (1, 2, 4)
    # A test clip with another split in this catalog still holds out its video.
    rank = {"reference": "w0_0_5", "targets": ["v1_0_5"], "category": "Visuals", "scores": [3]}
    (folder / "diffrank.jsonl").write_text(json.dumps(rank))
    assert chosen_pairs(folder, hold_out=files[1:])[1]["left_out"][BY_VIDEO] == 3


def test_only_described_clips_make_pairs_if_texts_are_given(folder: Path) -> None:
    keys = ["v0_0_5", "v1_0_5", "v2_0_5"]
    texts = pl.DataFrame(
        {"key": keys, "kind": ["d"] * 3, "text": ["t"] * 3, "provenance": ["{}"] * 3}
    )
    (folder / "texts.parquet").write_bytes(table.encode(texts))
    frame, record = chosen_pairs(folder, texts=str(folder / "texts.parquet"), other=0.0)
    assert clips_of(frame) == set(keys) and record["pairs"] == 3


def test_the_same_seed_and_clips_give_the_same_file(folder: Path) -> None:
    first, _ = chosen_pairs(folder, other=0.3, cap=5)
    again, _ = chosen_pairs(folder, other=0.3, cap=5)
    other, _ = chosen_pairs(folder, other=0.3, cap=5, seed=1)
    assert first.equals(again) and not first.equals(other)
    assert len(list(folder.iterdir())) == 2  # no temporary file is left


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cap", "0"], "at least 1"),
        (["--other", "1"], "a fraction from 0 up to 1"),
        (["--step", "verb"], "no clip has a verb"),
        (["--hold-out", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_unusable_options_of_pairs_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    command = ["--store", str(folder / "features"), "--out", str(folder / "p.parquet"), *more]
    refuses(pairs.main, command, capsys, message)
    assert not (folder / "p.parquet").exists()


def test_a_store_of_one_video_has_no_pair(tmp_path: Path) -> None:
    Store.open(tmp_path / "features", create=True).catalog("clips").append(
        pl.DataFrame([clip_row("v", 0, "a"), clip_row("v", 9, "a")])
    )
    with pytest.raises(StepDiffError, match="no step has training clips of two videos"):
        chosen_pairs(tmp_path)


def test_clips_of_unknown_video_make_no_pair_with_each_other(tmp_path: Path) -> None:
    rows = [{"key": name, "step": "a"} for name in ("one", "two", "v_0_5")]
    Store.open(tmp_path / "features", create=True).catalog("clips").append(pl.DataFrame(rows))
    frame, _ = chosen_pairs(tmp_path, other=0.0)
    assert sorted(map(sorted, frame.select("reference", "candidate").rows())) == [
        ["one", "v_0_5"],
        ["two", "v_0_5"],
    ]


STEPS_AND_VIDEOS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=24)
NAMES = ["whisk", "pour", "chop", "bake"]


def allowed(clips: list[tuple[int, int]], one_step: bool) -> set[frozenset[int]]:
    """Return the pairs of clips of two videos, of one step or of two steps."""
    return {
        frozenset((a, b))
        for a, b in combinations(range(len(clips)), 2)
        if (clips[a][0] == clips[b][0]) == one_step and clips[a][1] != clips[b][1]
    }


def columns(clips: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(clips, np.uint32).reshape(-1, 2)
    return array[:, 0], array[:, 1]


@given(STEPS_AND_VIDEOS, st.integers(1, 30), st.integers(0, 3))
def test_a_step_gives_its_pairs_up_to_the_cap_once(
    clips: list[tuple[int, int]], cap: int, seed: int
) -> None:
    pairs = [frozenset(pair) for pair in same_step(*columns(clips), NAMES, cap, seed).tolist()]
    assert len(set(pairs)) == len(pairs)
    there = allowed(clips, True)
    assert set(pairs) <= there
    of_step = Counter(clips[min(pair)][0] for pair in pairs)
    assert of_step == {
        step: min(cap, count)
        for step, count in Counter(clips[min(pair)][0] for pair in there).items()
    }


@pytest.mark.full
def test_every_pair_of_one_step_is_equally_likely() -> None:
    clips = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (1, 0), (1, 2)]
    draws = 3000
    found = Counter[tuple[int, int]]()
    for seed in range(draws):
        found.update(map(tuple, same_step(*columns(clips), NAMES, 2, seed).tolist()))
    of_first = {pair for pair in allowed(clips, True) if clips[min(pair)][0] == 0}
    assert len(of_first) == 11
    expected = draws * 2 / 11 / 2  # two pairs per draw, each in one of its two orders
    for a, b in map(sorted, of_first):
        for pair in ((a, b), (b, a)):
            assert abs(found[pair] - expected) < 5 * expected**0.5, pair
    assert abs(found[6, 7] - draws / 2) < 5 * (draws / 4) ** 0.5


def test_the_pairs_of_a_step_depend_on_no_other_step() -> None:
    rng = np.random.default_rng(0)
    whisk = [(0, int(video)) for video in rng.integers(0, 9, 30)]
    pour = [(1, int(video)) for video in rng.integers(0, 9, 30)]
    alone = same_step(*columns(whisk), ["whisk"], 10, 5)
    behind = same_step(
        *columns([*pour, *[(0, video) for _, video in whisk]]), ["whisk", "pour"], 10, 5
    )
    of_whisk = behind[behind[:, 0] >= 30] - 30
    assert of_whisk.tolist() == alone.tolist()
    assert same_step(*columns(whisk), ["whisk"], 10, 6).tolist() != alone.tolist()
    assert same_step(*columns(whisk), ["bake"], 10, 5).tolist() != alone.tolist()


SUPPLEMENT = Path(__file__).parents[3] / "shared/seeds"


def published() -> list[str]:
    """Return the supplement's prompts in order with joined lines; a line ending in a hyphen
    continues in the next."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SUPPLEMENT.glob("*.txt")))
    found = re.findall(r"```\n\[[A-Z0-9_ ]*PROMPT[A-Z0-9_]*\]\n(.*?)```", text, flags=re.DOTALL)
    return [" ".join(prompt.replace("-\n", "-").split()) for prompt in found]


@pytest.mark.skipif(not SUPPLEMENT.is_dir(), reason=f"the supplement is not in {SUPPLEMENT}")
def test_the_published_prompts_are_those_of_the_supplement() -> None:
    ours = [
        SYSTEM,
        prompts.ACTION_QUESTION,
        prompts.OBJECT_QUESTION,
        DESCRIBE.system,
        DESCRIBE.user,
        PAIRQA[1].system,
        *(PAIRQA[kind].user for kind in (1, 2, 3)),
    ]
    assert [" ".join(prompt.split()) for prompt in ours] == published()
    assert len({PAIRQA[kind].system for kind in PAIRQA}) == 1


def test_a_template_with_a_missing_or_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="prompt mine: its template lacks {step}; add it"):
        Prompt("mine", "You see.", "Describe it.", ("step",))
    with pytest.raises(StepDiffError, match="prompt mine: unknown field {other}; use step"):
        Prompt("mine", "You see {other}.", "Describe {step}.", ("step",))
    with pytest.raises(
        StepDiffError, match="prompt mine: .*write a brace that begins no field twice"
    ):
        Prompt("mine", "You see }.", "Describe {step}.", ("step",))
    for form in ("{step:{width}}", "{step:d}", "{step!r}"):
        with pytest.raises(StepDiffError, match="prompt mine: a field is its name in braces alone"):
            Prompt("mine", "You see.", f"Describe {form}.", ("step",))
    path = tmp_path / "mine.yaml"
    path.write_text("system: Be short.\nuser: '{narration} {action_caption}'\n")
    with pytest.raises(
        StepDiffError, match=r"describe of .*mine.yaml: its template lacks {object_caption}"
    ):
        read_prompt(str(path), DESCRIBE)
    for broken in (
        "user: '{narration}'",
        "- a list",
        "a: [",
        "just words",
        "system:\nuser: '{narration}'",
    ):
        path.write_text(broken)
        with pytest.raises(StepDiffError, match="no prompt of `system` and `user`") as caught:
            read_prompt(str(path), DESCRIBE)
        assert "\n" not in str(caught.value)
    with pytest.raises(StepDiffError, match="no prompt of"):
        read_prompt(str(tmp_path / "absent.yaml"), DESCRIBE)


@given(st.text(), st.text(), st.text())
def test_the_text_of_a_field_is_never_read_as_a_template(
    narration: str, action: str, objects: str
) -> None:
    system, user = DESCRIBE.messages(
        narration=narration, action_caption=action, object_caption=objects
    )
    before, _, rest = DESCRIBE.user.partition("{narration}")
    between, _, rest = rest.partition("{action_caption}")
    then, _, end = rest.partition("{object_caption}")
    assert user == {
        "role": "user",
        "content": before + narration + between + action + then + objects + end,
    }
    assert system == {"role": "system", "content": DESCRIBE.system}


WHISK = QA("Which video uses a whisk?", "Video 1")
WRITTEN = Path(__file__).with_name("written.txt").read_text(encoding="utf-8")
CASES = {case.partition("\n")[0]: case.partition("\n")[2] for case in WRITTEN.split("%% ")[1:]}
"""name -> what a model wrote, then "%+ question | answer" for each pair in it and "%- reason" for
what is dropped"""


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_question_and_answer_are_read(name: str) -> None:
    lines = CASES[name].splitlines()
    reading = read_pairs("\n".join(line for line in lines if line[:2] not in ("%+", "%-")))
    assert [f"%+ {pair.question} | {pair.answer}" for pair in reading.pairs] == [
        x for x in lines if x[:2] == "%+"
    ]
    assert [f"%- {dropped.reason}" for dropped in reading.dropped] == [
        x for x in lines if x[:2] == "%-"
    ]


def test_windows_line_ends_and_empty_answers_are_read() -> None:
    assert read_pairs("Q: Which video uses a whisk?\r\nA: Video 1\r\n").pairs == [WHISK]
    assert read_pairs(" \n ") == Reading([], [Dropped(parsing.EMPTY, "")])


def test_an_endless_answer_is_dropped() -> None:
    (dropped,) = read_pairs("Q: Which video uses a whisk?\nA: " + "Video 1 and then " * 60).dropped
    assert dropped.reason == parsing.RUNAWAY


YES_NO = {
    "YES": "YES",
    "NO": "NO",
    "Yes.": "YES",
    "**YES**": "YES",
    '"NO"': "NO",
    "Answer: NO": "NO",
    "Q: Do the two videos share a similar main action?\nA: YES": "YES",
    "YES. Both videos show a person who whisks eggs.": "YES",
    "No, the two videos do not share a similar main action.": "NO",
    "The two videos differ, so the answer is: no": "NO",
    "YES<|im_end|>\n<|im_start|>user NO": "YES",
    "YES or NO": parsing.NOT_YES_NO,
    "A: YES\nQ: And the tools?\nA: NO": "YES",
    "Yes they do.": "YES",
    "No idea": parsing.NOT_YES_NO,
    "NO information is available": parsing.NOT_YES_NO,
    "yes \u2014 NO": parsing.NOT_YES_NO,
    "Video NO. 1": parsing.NOT_YES_NO,
    "Nothing is similar.": parsing.NOT_YES_NO,
    "As an AI, I do not have access to videos.": parsing.REFUSAL,
    "": parsing.EMPTY,
}


@pytest.mark.parametrize("written", YES_NO)
def test_yes_and_no_are_read(written: str) -> None:
    found = read_yes_no(written)
    assert (found if isinstance(found, str) else found.reason) == YES_NO[written]


PIECES = st.sampled_from(
    "Q: A: **Q:** 1. Q2. Answer: ? [ ] - YES NO … “ <s> ** <|im_end|>".split()
    + [
        "\n",
        "\n\n",
        " ",
        "\u2028",
        "\0",
        "Video 1",
        "Which video",
        "I hope this helps",
        "I'm sorry",
        "Question 1",
    ]
)
ANY = st.one_of(
    st.text(), st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=40).map("".join)
)


@given(ANY)
@example("Q:Q:*A:0")
@example("Q:Q:what is whisked?\nA:*A:Video 1")
def test_any_text_gives_lines_without_markers(text: str) -> None:
    reading, decision = read_pairs(text), read_yes_no(text)
    assert reading.pairs or reading.dropped
    assert decision in ("YES", "NO") or (isinstance(decision, Dropped) and decision.reason)
    for pair in reading.pairs:
        for part in pair:
            assert part == part.strip() and len(part.splitlines()) == 1
            assert (
                "**" not in part
                and "<|im_end|>" not in part
                and not re.match(r"(?:Q|A|Question|Answer):", part)
            )


TEXT = "the person whisks eggs in a glass bowl Video 1 2 slowly, gently oil it's"
WRITTEN_WORDS = st.lists(st.sampled_from(TEXT.split()), min_size=1)


@given(st.lists(st.tuples(WRITTEN_WORDS, WRITTEN_WORDS), min_size=1, max_size=4))
def test_pairs_written_as_q_and_a_lines_are_read_back(
    words: list[tuple[list[str], list[str]]],
) -> None:
    pairs = [
        QA(" ".join(question[:20]) + "?", " ".join(answer[:20]) + ".") for question, answer in words
    ]
    reading = read_pairs("\n".join(f"Q: {pair.question}\nA: {pair.answer}" for pair in pairs))
    assert reading == Reading(pairs, [])


ONE = {
    "Video 1": 1,
    "video one": 1,
    "Video #2": 2,
    "Video_1": 1,
    "Clip 2 shows a whisk.": 2,
    "The second one": 2,
    "the latter": 2,
    "Video II": 2,
    "Both videos": None,
    "Videos 1 and 2": None,
    "Video 1, but also the second one": None,
    "the first step": None,
    "Video 10": None,
    "Neither, though Video 1 comes near": None,
    "Video 1, with both hands": 1,
    "Video 1, two eggs are used.": 1,
    "V2": 2,
    "The second instructional video": 2,
    "In the video one egg is used.": None,
    "In the video I see a pan.": None,
    "The first": None,
}


@pytest.mark.parametrize("text", ONE)
def test_a_sentence_names_one_video_or_none(text: str) -> None:
    assert names_one(text) == ONE[text]


TURNED = {
    "In Video 1 it is glass, while in Video 2 it is steel.": (
        "In Video 2 it is glass, while in Video 1 it is steel."
    ),
    "The first video shows a pan, the second one a pot.": (
        "The second video shows a pan, the first one a pot."
    ),
    "The former is brighter than the latter.": "The latter is brighter than the former.",
    "Videos 1 and 2 show it, video one longer.": "Videos 2 and 1 show it, video two longer.",
    "VIDEO 1, the FIRST VIDEO, Clip #2": "VIDEO 2, the SECOND VIDEO, Clip #1",
    "The first step takes 2 eggs and 1 onion.": "The first step takes 2 eggs and 1 onion.",
    "Both videos use 1 cup.": "Both videos use 1 cup.",
    "The first video uses a pan, while the second uses a pot.": (
        "The second video uses a pan, while the first uses a pot."
    ),
    "The first clip shows a bowl; the second a plate.": (
        "The second clip shows a bowl; the first a plate."
    ),
    "In the first, eggs are whisked; in the second, fried.": (
        "In the second, eggs are whisked; in the first, fried."
    ),
    "The first uses a pan, while the second uses a pot.": (
        "The second uses a pan, while the first uses a pot."
    ),
    "The first instructional video is longer.": "The second instructional video is longer.",
    "Video A is red, Video B is blue.": "Video B is red, Video A is blue.",
    "V1 is red and V2 is blue.": "V2 is red and V1 is blue.",
    "Video (1) is red.": "Video (2) is red.",
    "In Video 1, two eggs are cracked, in Video 2, one is.": (
        "In Video 2, two eggs are cracked, in Video 1, one is."
    ),
    "In Video 1, I see a pan.": "In Video 2, I see a pan.",
    "Video 1, 2 cups": "Video 2, 2 cups",
    "In the first video 2 eggs are used.": "In the second video 2 eggs are used.",
    "In the first video one egg is used.": "In the second video one egg is used.",
    "Each video one egg.": "Each video one egg.",
    "Video 1 uses a pan, the other a pot.": "Video 2 uses a pan, the other a pot.",
    "The first steps are alike in Video 1.": "The first steps are alike in Video 2.",
}


@pytest.mark.parametrize("text", TURNED)
def test_every_way_to_name_a_video_is_turned(text: str) -> None:
    assert turned(text) == TURNED[text]


WORDS = (
    "Video video videos 1 2 one two ii II I A B V1 the first second former latter clip and , . #2 "
    "VIDEO 10"
).split()
WORDS += "eggs 1st uses (1) each instructional in".split()
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@given(TEXTS)
def test_a_sentence_turned_twice_is_the_sentence(text: str) -> None:
    assert turned(turned(text)) == text


@given(TEXTS)
def test_a_turned_sentence_names_the_other_videos(text: str) -> None:
    assert named(turned(text)) == {3 - number for number in named(text)}


UNSURE = {
    "The first person uses a whisk, the second person a fork.": True,
    "The first egg is whisked before the second egg.": True,
    "The first person in Video 1 uses a whisk.": False,
    "The first video shows the first step.": False,
    "In the first, eggs are whisked; in the second, fried.": False,
}


@pytest.mark.parametrize("text", UNSURE)
def test_an_ambiguous_ordinal_is_reported(text: str) -> None:
    assert unsure(text) == UNSURE[text]


WHICH = "Which video uses a whisk?"
RULES = {
    (2, WHICH, "video 2."): "Video 2",
    (2, WHICH, "In the first video"): "Video 1",
    (2, WHICH, "Answer: Video 1."): "Video 1",
    (2, WHICH, "Video 1, because its bowl is foamy."): "Video 1, because its bowl is foamy.",
    (2, "In which of the two videos is the pan hot?", "Video 2"): "Video 2",
    (2, "Which video, Video 1 or Video 2, is brighter?", "Video 2"): "Video 2",
    (1, "What do both share?", "Both videos show onions."): "Both videos show onions.",
    (2, WHICH, "Both videos"): qa_rules.NOT_ONE,
    (2, WHICH, "The person does."): qa_rules.NOT_ONE,
    (2, "Does Video 1 use a whisk?", "Video 1"): qa_rules.NOT_WHICH,
    (2, "Which video, like Video 1, uses a whisk?", "Video 1"): qa_rules.GIVEN_AWAY,
    (1, "What do the descriptions say?", "Video 1 is red."): qa_rules.DESCRIPTIONS,
    (1, "How do they differ?", "According to the narrator, Video 1 is red."): qa_rules.DESCRIPTIONS,
    (2, WHICH, "Video 3"): qa_rules.THIRD,
    (1, "How do they differ?", "Video 1 is red, the third video is not."): qa_rules.THIRD,
    (1, "How do they differ?", "How do they differ"): qa_rules.REPEATS,
    (
        1,
        "How do they differ?",
        "The first person uses a pan, the second person a pot.",
    ): qa_rules.UNSURE,
}


@pytest.mark.parametrize("case", RULES)
def test_a_pair_is_kept_or_dropped_with_the_rule_it_breaks(
    case: tuple[int, str, str],
) -> None:
    kind, question, answer = case
    found = rule_checked(kind, QA(question, answer))
    assert (found.reason if isinstance(found, Dropped) else found.answer) == RULES[case]


def angles(texts: Sequence[str]) -> np.ndarray:
    """Embed a text as an angle in degrees, so that nearby numbers are similar."""
    turns = np.radians([float(text.partition("#")[0]) for text in texts])
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def test_of_similar_questions_the_first_is_kept() -> None:
    asked = [["0", "5", "20", "0"], [], ["7"]]
    assert first_of_alike(asked, angles, np.cos(np.radians(10))) == [
        [True, False, True, False],
        [],
        [True],
    ]
    # 9 is similar to 0, which is kept; 18 is similar to 9, which is dropped
    assert first_of_alike([["0", "9", "18"]], angles, np.cos(np.radians(10))) == [
        [True, False, True]
    ]
    assert first_of_alike([["0"], ["0"], ["1"]], angles, 0.5) == [[True]] * 3, (
        "only questions of one pair"
    )


def by_last_letter(texts: Sequence[str]) -> np.ndarray:
    """Treat questions as similar if their last letters before the question mark are equal."""
    return np.eye(128, dtype=np.float32)[[ord(text[-2]) % 128 for text in texts]]


def pair(number: int, same_step: bool = True) -> dict[str, Any]:
    return {
        "pair": number,
        "reference": f"a_{number}_1",
        "candidate": f"b_{number}_1",
        "same_step": same_step,
    }


def composed(
    pairs: list[dict[str, Any]],
    texts: dict[tuple[int, int], str],
    cut: Sequence[tuple[int, int]] = (),
) -> tuple[list[dict[str, Any]], Ledger]:
    """Compose questions from `texts` by pair and type; `cut` are those that the token limit cut."""
    written = {
        item_key(kind, f"a_{number}_1", f"b_{number}_1"): text
        for (number, kind), text in texts.items()
    }
    ledger = Ledger()
    ended = {item_key(kind, f"a_{number}_1", f"b_{number}_1") for number, kind in cut}
    return list(compose(pairs, written, ended, by_last_letter, 0.9, ledger)), ledger


ANSWERS = {
    1: (
        "Q: How do the bowls differ?\nA: In Video 1 it is glass, while in Video 2 it is steel.\nQ: "
        "Why?"
    ),
    2: (
        "Q: Which video uses a whisk?\nA: Video 1\nQ: Which of them has no fork?\nA: Video 2\nQ: "
        "Which is it?\nA: Both"
    ),
    3: "YES",
}


def test_every_question_is_written_in_both_orders_of_its_pair() -> None:
    rows, ledger = composed([pair(0)], {(0, kind): text for kind, text in ANSWERS.items()})
    assert [(r["reference"], r["type"], r["question"], r["answer"]) for r in rows] == [
        (
            "a_0_1",
            1,
            "How do the bowls differ?",
            "In Video 1 it is glass, while in Video 2 it is steel.",
        ),
        ("a_0_1", 2, "Which video uses a whisk?", "Video 1"),
        ("a_0_1", 3, SIMILAR, "YES"),
        (
            "b_0_1",
            1,
            "How do the bowls differ?",
            "In Video 2 it is glass, while in Video 1 it is steel.",
        ),
        ("b_0_1", 2, "Which video uses a whisk?", "Video 2"),
        ("b_0_1", 3, SIMILAR, "YES"),
    ]
    assert [row["turned"] for row in rows] == [False] * 3 + [True] * 3 and {
        row["pair"] for row in rows
    } == {0}
    assert ledger.rows == len(rows)
    assert ledger.record()["types"] == {
        "1": {"written": 1, "kept": 1, "dropped": {"question without an answer": 1}},
        "2": {
            "written": 1,
            "kept": 1,
            "dropped": {"answer does not name exactly one video": 1, ALIKE: 1},
        },
        "3": {"written": 1, "kept": 1, "dropped": {}},
    }
    assert ledger.examples[ALIKE] == ["Which of them has no fork?"]


def test_a_pair_of_different_steps_gets_only_a_no() -> None:
    rows, ledger = composed([pair(4, False)], {(4, kind): text for kind, text in ANSWERS.items()})
    assert [
        (r["reference"], r["candidate"], r["type"], r["question"], r["answer"]) for r in rows
    ] == [
        ("a_4_1", "b_4_1", 3, SIMILAR, "NO"),
        ("b_4_1", "a_4_1", 3, SIMILAR, "NO"),
    ]
    assert ledger.written.total() == 0 and not ledger.dropped


def test_a_missing_text_is_counted() -> None:
    rows, ledger = composed([pair(0)], {(0, 3): "NO"})
    assert [row["answer"] for row in rows] == ["NO", "NO"]
    assert ledger.dropped[1] == ledger.dropped[2] == {UNANSWERED: 1}


LINES = st.sampled_from(
    [
        "Q: Which video is a?",
        "Q: Which video is b?",
        "Q: Is Video 1 c?",
        "A: Video 1",
        "A: the second video",
        "A: both",
        "Sure!",
    ]
    + [
        "A: In Video 1 it is red, in Video 2 blue.",
        "A: I cannot see.",
        "",
        "Q: What do the captions say?",
        "YES",
        "A: No",
    ]
)
LINES_WRITTEN = st.lists(LINES, max_size=8).map("\n".join)


@given(st.lists(st.tuples(LINES_WRITTEN, LINES_WRITTEN, LINES_WRITTEN), max_size=4))
def test_every_text_is_kept_or_dropped_with_a_reason(texts: list[tuple[str, str, str]]) -> None:
    message = {
        (number, kind): text
        for number, of_pair in enumerate(texts)
        for kind, text in enumerate(of_pair, 1)
    }
    rows, ledger = composed([pair(number) for number in range(len(texts))], message)
    for kind in (1, 2):
        readings = (read_pairs(of_pair[kind - 1]) for of_pair in texts)
        pieces = sum(len(reading.pairs) + len(reading.dropped) for reading in readings)
        assert ledger.kept[kind] + ledger.dropped[kind].total() == pieces
    assert ledger.kept[3] + ledger.dropped[3].total() == len(texts)
    assert len(rows) == ledger.rows == 2 * ledger.kept.total()
    names = Counter(names_one(row["answer"]) for row in rows)
    assert names[1] == names[2]
    assert all(names_one(row["answer"]) for row in rows if row["type"] == 2)
    assert {row["answer"] for row in rows if row["type"] == 3} <= {"YES", "NO"}


def test_an_answer_cut_by_the_token_limit_is_dropped() -> None:
    written = {(0, 1): "Q: What do they use?\nA: In Video 1, the person uses a wooden"}
    (row, *_), _ = composed([pair(0)], written)
    assert row["answer"].endswith("wooden")  # nothing shows that more would follow
    rows, ledger = composed([pair(0)], written, cut=[(0, 1)])
    assert rows == [] and ledger.dropped[1] == Counter({"cut off": 1})
    whole = {(0, 1): "Q: What do they use?\nA: In Video 1, a spoon."}
    # the limit came after a complete sentence
    assert len(composed([pair(0)], whole, cut=[(0, 1)])[0]) == 2


JOB_PAIRS = pl.DataFrame(
    {
        "pair": [0, 1, 2],
        "reference": ["a", "b", "c"],
        "candidate": ["b", "c", "a"],
        "same_step": [True, False, True],
    }
)
JOB_TEXTS = {"a": "whisks {eggs}", "b": 'says "Q: why?"', "c": "chops"}


def job(server: Server) -> PairQAJob:
    llm = LLMOptions(endpoint=server.url, sampling=Sampling(max_tokens=99))
    return PairQAJob(llm, "sha", ('{"by": "hand"}',), "of texts")


def test_each_type_has_the_supplements_prompt(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return said(f"{body['max_tokens']} {json.dumps(body['messages'])}")

    server.answer = answer
    asked = items(JOB_PAIRS, JOB_TEXTS).drop("row").to_dicts()
    found = dict(job(server).load("cpu", 1).annotate(asked))
    assert set(found) == {item["key"] for item in asked}
    for item in asked:
        kind = item["type"]
        prompt = PAIRQA[kind].messages(**{name: item[name] for name in PAIRQA[kind].fields})
        assert found[item["key"]] == {
            f"type {kind}": f"{99 if kind < 3 else 8} {json.dumps(prompt)}"
        }


def test_another_pairs_file_is_another_provenance(server: Server) -> None:
    made = job(server)
    others = [replace(made, pairs="other"), replace(made, descriptions=("other",))]
    assert len({json.dumps(other.provenance()) for other in (made, *others)}) == 3
    assert made.provenance()["prompts"] == {
        f"type {kind}": PAIRQA[kind].sha256 for kind in (1, 2, 3)
    }


PAIRS = [(0, 0, 1, True), (1, 1, 2, True), (2, 2, 3, True), (3, 0, 3, False), (4, 3, 5, True)]


@pytest.fixture
def qa_options(store: Store, tmp_path: Path) -> list[str]:
    """Options for five pairs, one of which lacks a description."""
    try:
        resolve(MODEL)
    except StepDiffError as error:
        pytest.skip(str(error))
    rows = [
        (n, CLIPS[a], CLIPS[b], "whisk", "whisk" if same else "pour", same)
        for n, a, b, same in PAIRS
    ]
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(tmp_path / "pairs.parquet")
    texts = [
        (key, "step description", f"whisks with tool {n}", "{}") for n, key in enumerate(CLIPS[:5])
    ]
    frame = pl.DataFrame(texts, schema=["key", "kind", "text", "provenance"], orient="row")
    (tmp_path / "texts.parquet").write_bytes(table.encode(frame))
    paths = {
        "store": "features",
        "pairs": "pairs.parquet",
        "texts": "texts.parquet",
        "out": "pairqa.jsonl",
    }
    return ["--llm=llama", *(f"--{name}={tmp_path / path}" for name, path in paths.items())]


def writes(body: dict[str, Any]) -> Reply:
    """Answer with the content of the two descriptions, in the formats that language models use."""
    system, user = (message["content"] for message in body["messages"])
    one, two = re.findall(r"whisks with tool (\d)", system)
    if user.startswith("Do the two"):
        return said("YES" if one == "0" else "No, they do not.")
    if user.startswith("Summarize"):
        return said(
            f"Sure!\n\n1. **Q:** What differs?\n**A:** Video 1 has tool {one}, Video 2 tool "
            f"{two}.\n\nI hope it helps"
        )
    return said(
        f"Q: Which video has tool {one}?\nA: Video 1\nQ: Which video shows tool {one}?\nA: The "
        "first video\nQ: Which?"
    )


@pytest.mark.full
def test_the_file_is_written_once_and_no_answer_computed_twice(
    qa_options: list[str],
    server: Server,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "pairqa.jsonl"
    asked = [
        *qa_options,
        f"--endpoint={server.url}?api_key=sk-query-secret",
        "--retries=0",
        "--json",
    ]
    server.answer = lambda body: (
        writes(body) if len(server.requests) < 6 else Reply(b"<html>", 502, "text/html")
    )
    assert pairqa.main(asked) == 1
    assert not out.exists() and json.loads(capsys.readouterr().out)["absent"] > 0

    server.answer = writes
    assert pairqa.main(asked) == 0
    record = json.loads(capsys.readouterr().out)
    answered = len(server.requests)
    first = out.read_bytes()
    assert (record["pairs"], record["undescribed"], record["absent"], record["failed"]) == (
        5,
        1,
        0,
        0,
    )

    pairs = read_paired_qa(str(out), store.catalog("clips").frame())
    assert [(pair.reference, pair.candidate) for pair in pairs] == [
        clips for n, a, b, _ in PAIRS[:4] for clips in ((CLIPS[a], CLIPS[b]), (CLIPS[b], CLIPS[a]))
    ]
    similar = "Do the two videos share a similar main action? Answer with a single word: YES or NO."
    assert [(turn.question, turn.answer) for turn in pairs[1].turns] == [
        ("What differs?", "Video 2 has tool 0, Video 1 tool 1."),
        ("Which video has tool 0?", "Video 2"),
        (similar, "YES"),
    ]
    assert [(turn.question, turn.answer) for turn in pairs[6].turns] == [(similar, "NO")]
    rows = [json.loads(line) for line in first.splitlines()]
    assert record["rows"] == len(rows) == 2 * (3 * 3 + 1)
    assert {row["provenance"] for row in rows} == {record["version"]}
    reported = json.loads((tmp_path / "pairqa.record.json").read_text())
    assert reported["options"]["endpoint"] == server.url and "sk-query-secret" not in json.dumps(
        reported
    )
    assert reported["provenance"]["model"] == "llama" and reported["types"] == record["types"]
    assert record["types"]["2"]["dropped"] == {
        "question without an answer": 3,
        "asks what another question of the pair asks": 3,
    }

    out.unlink()
    assert pairqa.main(asked) == 0
    assert len(server.requests) == answered and out.read_bytes() == first


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        ("--out=questions.json", "name the file *.jsonl"),
        ("--alike=0", "a cosine above 0"),
        ("--pairs=none.parquet", "none.parquet: no pairs can be read"),
        ("--pairs=texts.parquet", "texts.parquet: not a file of stepdiff annotate pairs"),
        ("--texts=none.parquet", "none.parquet"),
    ],
)
def test_unusable_input_is_refused_in_one_line(
    qa_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: str,
    reported: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    refuses(pairqa.main, [*qa_options, more], capsys, reported)


@pytest.mark.full
def test_no_pair_with_a_clip_that_is_held_out_gets_a_question(
    qa_options: list[str], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"reference": CLIPS[0], "candidate": "other_0_1", "category": "Visuals", "text": ["x"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    server.answer = writes
    asked = [
        *qa_options,
        f"--endpoint={server.url}",
        "--retries=0",
        "--json",
        "--hold-out",
        str(tmp_path / "test.jsonl"),
    ]
    assert pairqa.main(asked) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert "hold-out, pairs: 2 of 5 dropped (2 clip of a test set)" in printed.err
    assert (
        record["pairs"] == 3 and record["hold_out"]["sources"]["pairs"]["clip of a test set"] == 2
    )
    rows = [json.loads(line) for line in (tmp_path / "pairqa.jsonl").read_text().splitlines()]
    assert rows and CLIPS[0] not in {
        clip for row in rows for clip in (row["reference"], row["candidate"])
    }
    assert not any(
        "tool 0" in message["content"] for body in server.requests for message in body["messages"]
    )
