"""The truth score agrees with people who read a caption, and is exact on the world's own texts.

judged_captions.jsonl has captions about pairs of make_world(60, 5), each with the details that a person read in it and
their judgement. By kind: 34 in the words of the templates, 33 as people write, 33 like the broken output of a small
model; "fresh" (40) were written when the rules agreed on 98 of these 100, "unseen" (30) when they agreed on 36 of the
40. At first sight the rules agreed on 92 of the 100, 29 of the 40 and 24 of the 30.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StepDiffError
from kitchen.attributes import Attributes
from kitchen.files import testsets
from kitchen.files.pairqa import paired_questions
from kitchen.files.phrasings import Split
from kitchen.files.texts import mentioned
from kitchen.truth import Detail, details_of, judgements, truth_figures
from kitchen.world import make_world
from tasks.scoring import score
from tasks.testsets import CATEGORIES, DiffCap

WORLD = {clip.id: clip for video in make_world(60, 5) for clip in video.clips}
JUDGED = [json.loads(line) for line in (Path(__file__).parent / "judged_captions.jsonl").read_text().splitlines()]
FIRST = ("template", "free", "broken")


def truths(row: dict[str, str]) -> tuple[Attributes, Attributes]:
    return WORLD[row["reference"]].truth, WORLD[row["candidate"]].truth


@pytest.mark.parametrize(("kinds", "count", "least"), [(FIRST, 100, 98), (("fresh",), 40, 36), (("unseen",), 30, 27)])
def test_whole_captions_are_judged_as_by_hand(kinds: tuple[str, ...], count: int, least: int) -> None:
    rows = [row for row in JUDGED if row["kind"] in kinds]
    agree = 0
    for row in rows:
        by_hand = {tuple(detail[:3]): detail[3] for detail in row["details"]}
        agree += judgements(row["caption"], row["category"], *truths(row)) == by_hand
    assert len(rows) == count and agree >= least


def test_judged_captions_are_diverse() -> None:
    assert {row["category"] for row in JUDGED} == set(CATEGORIES)
    kinds = Counter(detail[3] for row in JUDGED for detail in row["details"])
    assert set(kinds) == {"true", "swapped", "shared", "invented"} and kinds["swapped"] > 50
    assert sum(not row["details"] for row in JUDGED) >= 8


def named(row: DiffCap, a: Attributes, b: Attributes) -> set[Detail]:
    """Return the details that the texts of a row are made of."""
    details: set[Detail] = set()
    for d in mentioned(row.category, a, b):
        if d.attribute == "order":
            details.add(("order", f"{d.new}<{d.old}", "candidate"))
            continue
        if d.new not in ("", "plain"):
            details.add((d.attribute, d.new, "candidate"))
        if d.old not in ("", "plain"):
            details.add((d.attribute, d.old, "reference"))
    return details


@pytest.mark.parametrize("split", ["val", "test"])
def test_texts_of_the_world_are_true_and_false_with_their_clips_exchanged(split: Split) -> None:
    rows = testsets.diffcap([clip for clip in WORLD.values() if clip.split == split], 40, 0, split)
    for row in rows:
        a, b = WORLD[row.reference].truth, WORLD[row.candidate].truth
        for text in row.text:
            judged = judgements(text, row.category, a, b)
            assert set(judged.values()) == {"true"} and judged.keys() == named(row, a, b), text
            assert "true" not in judgements(text, row.category, b, a).values(), text
    assert len(rows) > 30


def test_training_answers_about_differences_are_true() -> None:
    records = paired_questions([clip for clip in WORLD.values() if clip.split == "train"], 0, "s1")
    common = ("in common", "similarity", "alike")
    checked = 0
    for record in records:
        if record["type"] == 1 and record["category"] in CATEGORIES:
            if not any(words in str(record["question"]) for words in common):
                pair = WORLD[str(record["reference"])].truth, WORLD[str(record["candidate"])].truth
                kinds = judgements(str(record["answer"]), str(record["category"]), *pair).values()
                assert set(kinds) <= {"true"}, record
                checked += 1
    assert checked > 1000


WORDS = st.lists(
    st.sampled_from("a whisk fork instead of not in video 1 2 . , while before both n't the first".split())
)


@given(st.one_of(st.text(), WORDS.map(" ".join)), st.sampled_from(JUDGED))
def test_any_text_can_be_judged(text: str, row: dict[str, str]) -> None:
    judged = judgements(text, row["category"], *truths(row))
    assert all(judged[detail] == "true" for detail in details_of(row["category"], *truths(row)) & judged.keys())


@pytest.fixture(scope="module")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "attributes.jsonl"
    file.write_text("".join(json.dumps({"clip": c.id, **c.truth.as_dict()}) + "\n" for c in WORLD.values()))
    return file


def test_figures_are_shares_of_all_details(attributes: Path) -> None:
    """Those of captions that the rules read as people do equal the counts by hand; agreeing pairs do not count."""
    rows, captions, kinds, right, wanted = [], [], Counter[str](), 0, 0
    for row in JUDGED:
        by_hand = {tuple(detail[:3]): detail[3] for detail in row["details"]}
        if judgements(row["caption"], row["category"], *truths(row)) == by_hand:
            rows.append(DiffCap(row["reference"], row["candidate"], row["category"], ("x",)))
            captions.append(row["caption"])
            kinds.update(by_hand.values())
            details = details_of(row["category"], *truths(row))
            right, wanted = right + len(details & by_hand.keys()), wanted + len(details)
    rows.append(DiffCap(rows[0].reference, rows[0].candidate, rows[0].category, ()))
    figures = score("diffcap", rows, [*captions, "uses an onion"], 200, truth=truth_figures(attributes))
    for name, kind in (("precision", "true"), ("swapped", "swapped"), ("shared", "shared"), ("invented", "invented")):
        assert figures[f"truth_{name}"] == pytest.approx(kinds[kind] / kinds.total())
    assert figures["truth_recall"] == pytest.approx(right / wanted)
    low, high = figures["intervals"]["truth_precision"]
    assert low < figures["truth_precision"] < high
    assert {"truth_precision", "truth_recall"} <= figures["per_category"]["Actions"].keys()


def test_captions_that_name_nothing_have_no_precision(attributes: Path) -> None:
    row = JUDGED[0]
    rows = [DiffCap(row["reference"], row["candidate"], row["category"], ("x",))]
    figures = score("diffcap", rows, ["There is no difference."], 0, truth=truth_figures(attributes))
    assert figures["truth_precision"] is None and figures["truth_recall"] == 0


def test_a_file_of_another_world_is_refused(attributes: Path, tmp_path: Path) -> None:
    rows = [DiffCap("a_0.00_1.00", "b_0.00_1.00", "Actions", ("x",))]
    with pytest.raises(StepDiffError, match="a_0.00_1.00: not in .*name the attributes.jsonl of the test set's world"):
        truth_figures(attributes)(rows, ["x"])
    with pytest.raises(StepDiffError, match="Serving: not a row of the sample world"):
        row = JUDGED[0]
        truth_figures(attributes)([DiffCap(row["reference"], row["candidate"], "Serving", ("x",))], ["x"])
    (tmp_path / "other.jsonl").write_text('{"clip": "a"}\n')
    with pytest.raises(StepDiffError, match="not the attributes.jsonl of a world"):
        truth_figures(tmp_path / "other.jsonl")
