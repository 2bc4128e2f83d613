"""Texts, test sets and judgements of the sample world agree with its ground truth."""

import json
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.mining.negatives import StatedDifference, StatedDifferences, random_negatives
from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, differences, score
from stepdiff.kitchen.controls import UNTRUE, MostDifferences, TrueAttributes
from stepdiff.kitchen.files import testsets
from stepdiff.kitchen.files.pairqa import Record, paired_questions
from stepdiff.kitchen.files.texts import Split, bank, changes, mentioned
from stepdiff.kitchen.steps import MAIN, STEPS
from stepdiff.kitchen.truth import Detail, as_true_by, details_of, judgements, truth_figures
from stepdiff.kitchen.world import Clip, make_world
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import MAIN_ACTION
from stepdiff_core.tasks.scoring import score as score_captions
from stepdiff_core.tasks.testsets import CATEGORIES, TARGETS, DiffCap, DiffMCQ, Pair

WORLD = make_world(132, 0)
CLIPS = {clip.id: clip for video in WORLD for clip in video.clips}
TRAIN = [clip for clip in CLIPS.values() if clip.split == "train"]
RECORDS = paired_questions(TRAIN, 0, "supervised")
S1 = paired_questions(TRAIN, 0, "s1")
both = pytest.mark.parametrize("records", [S1, RECORDS], ids=["s1", "supervised"])


def of_split(split: str) -> list[Clip]:
    return [clip for clip in CLIPS.values() if clip.split == split]


def test_no_phrasing_is_in_two_splits_whatever_it_says() -> None:
    splits: dict[str, set[str]] = {}
    for phrasings in bank().values():
        for clause, split in phrasings.items():
            splits.setdefault(clause, set()).add(split)
    assert [clause for clause, of in splits.items() if len(of) > 1] == []


@both
def test_pairqa_uses_training_clips_only(records: list[Record]) -> None:
    for record in records:
        for side in ("reference", "candidate"):
            assert CLIPS[str(record[side])].split == "train"
        same = (
            CLIPS[str(record["reference"])].truth.step == CLIPS[str(record["candidate"])].truth.step
        )
        if record["type"] != 3:
            assert same != (record["category"] == MAIN_ACTION)


def test_similarity_questions_follow_the_score_and_are_balanced() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for record in RECORDS:
        if record["type"] != 3:
            continue
        a, b = (CLIPS[str(record[side])].truth for side in ("reference", "candidate"))
        category = str(record["category"])
        assert record["question"] == (
            f"Do the two videos share a similar {category}? Answer with a single word: YES or NO."
        )
        if a.step != b.step:
            alike = False
        elif category == MAIN_ACTION:
            alike = True
        else:
            alike = score(category, a, b) == 5
            assert alike or score(category, a, b) <= 2, "scores 3 and 4 are ambiguous"
        assert record["answer"] == ("YES" if alike else "NO")
        counts[category, str(record["answer"])] += 1
    for topic in (*CATEGORIES, MAIN_ACTION):
        yes, no = counts[topic, "YES"], counts[topic, "NO"]
        assert yes + no > 200
        assert 0.4 < yes / (yes + no) < 0.6


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffcap_texts_name_true_differences(split: Split) -> None:
    rows = testsets.diffcap(of_split(split), testsets.SIZES[split][0], 0, split)
    triples = set()
    for row in rows:
        a, b = CLIPS[row.reference], CLIPS[row.candidate]
        assert (a.split, b.split) == (split, split)
        assert differences(row.category, a.truth, b.truth)
        texts = row.text
        assert len(set(texts)) == testsets.TEXTS
        for d in mentioned(row.category, a.truth, b.truth):
            if d.attribute in ("gloves", "main", "colour"):
                assert all(d.new.split()[-1] in t and d.old.split()[-1] in t for t in texts)
        triples.add((*sorted((a.id, b.id)), row.category))
    assert len(triples) == len(rows)


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffrank_scores_equal_the_documented_scores(split: Split) -> None:
    rows = testsets.diffrank(of_split(split), testsets.SIZES[split][1], 0)
    foreign = targets_elsewhere = 0
    for row in rows:
        targets, scores = row.targets, row.scores
        reference, category = CLIPS[row.reference], row.category
        assert len(set(targets) | {reference.id}) == 5
        assert list(scores) == [score(category, reference.truth, CLIPS[t].truth) for t in targets]
        assert len(set(scores)) > 1
        assert scores.count(0) <= 2
        foreign += 0 in scores
        targets_elsewhere += scores.count(0)
    assert 0.80 < foreign / len(rows) < 0.90
    assert 0.27 < targets_elsewhere / (TARGETS * len(rows)) < 0.33
    assert set(Counter(r.category for r in rows)) == set(CATEGORIES)


JUDGED_WORLD = {clip.id: clip for video in make_world(60, 5) for clip in video.clips}
JUDGED = [
    json.loads(line)
    for line in (Path(__file__).parent / "judged_captions.jsonl").read_text().splitlines()
]
FIRST = ("template", "free", "broken")


def truths(row: dict[str, str]) -> tuple[Attributes, Attributes]:
    return JUDGED_WORLD[row["reference"]].truth, JUDGED_WORLD[row["candidate"]].truth


@pytest.mark.parametrize(
    ("kinds", "count", "least"), [(FIRST, 100, 98), (("fresh",), 40, 36), (("unseen",), 30, 27)]
)
def test_whole_captions_are_judged_as_by_hand(
    kinds: tuple[str, ...], count: int, least: int
) -> None:
    rows = [row for row in JUDGED if row["kind"] in kinds]
    agree = 0
    for row in rows:
        by_hand = {tuple(detail[:3]): detail[3] for detail in row["details"]}
        agree += judgements(row["caption"], row["category"], *truths(row)) == by_hand
    assert len(rows) == count and agree >= least


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
def test_texts_are_true_and_false_with_their_clips_exchanged(split: Split) -> None:
    rows = testsets.diffcap(
        [clip for clip in JUDGED_WORLD.values() if clip.split == split], 40, 0, split
    )
    for row in rows:
        a, b = JUDGED_WORLD[row.reference].truth, JUDGED_WORLD[row.candidate].truth
        for text in row.text:
            judged = judgements(text, row.category, a, b)
            assert set(judged.values()) == {"true"} and judged.keys() == named(row, a, b), text
            assert "true" not in judgements(text, row.category, b, a).values(), text
    assert len(rows) > 30


CAPTION_WORDS = st.lists(
    st.sampled_from(
        "a whisk fork instead of not in video 1 2 . , while before both n't the first".split()
    )
)


@given(st.one_of(st.text(), CAPTION_WORDS.map(" ".join)), st.sampled_from(JUDGED))
def test_any_text_can_be_judged(text: str, row: dict[str, str]) -> None:
    judged = judgements(text, row["category"], *truths(row))
    assert all(
        judged[detail] == "true"
        for detail in details_of(row["category"], *truths(row)) & judged.keys()
    )


@pytest.fixture(scope="module")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("world") / "attributes.jsonl"
    file.write_text(
        "".join(json.dumps({"clip": c.id, **asdict(c.truth)}) + "\n" for c in JUDGED_WORLD.values())
    )
    return file


@pytest.mark.full
def test_figures_are_shares_of_all_details(attributes: Path) -> None:
    """Those of captions that the rules read as people do equal the counts by hand; agreeing pairs
    do not count."""
    rows, captions, kinds, right, detail_count = [], [], Counter[str](), 0, 0
    for row in JUDGED:
        by_hand = {tuple(detail[:3]): detail[3] for detail in row["details"]}
        if judgements(row["caption"], row["category"], *truths(row)) == by_hand:
            rows.append(DiffCap(row["reference"], row["candidate"], row["category"], ("x",)))
            captions.append(row["caption"])
            kinds.update(by_hand.values())
            details = details_of(row["category"], *truths(row))
            right, detail_count = right + len(details & by_hand.keys()), detail_count + len(details)
    rows.append(DiffCap(rows[0].reference, rows[0].candidate, rows[0].category, ()))
    figures = score_captions(
        "diffcap", rows, [*captions, "uses an onion"], 200, truth=truth_figures(attributes)
    )
    for name, kind in (
        ("precision", "true"),
        ("swapped", "swapped"),
        ("shared", "shared"),
        ("invented", "invented"),
    ):
        assert figures[f"truth_{name}"] == pytest.approx(kinds[kind] / kinds.total())
    assert figures["truth_recall"] == pytest.approx(right / detail_count)
    low, high = figures["intervals"]["truth_precision"]
    assert low < figures["truth_precision"] < high
    assert {"truth_precision", "truth_recall"} <= figures["per_category"]["Actions"].keys()


def test_a_file_of_another_world_is_refused(attributes: Path, tmp_path: Path) -> None:
    rows = [DiffCap("a_0.00_1.00", "b_0.00_1.00", "Actions", ("x",))]
    with pytest.raises(
        StepDiffError,
        match="a_0.00_1.00: not in .*name the attributes.jsonl of the test set's world",
    ):
        truth_figures(attributes)(rows, ["x"])
    with pytest.raises(StepDiffError, match="Serving: not a row of the sample world"):
        row = JUDGED[0]
        truth_figures(attributes)(
            [DiffCap(row["reference"], row["candidate"], "Serving", ("x",))], ["x"]
        )
    (tmp_path / "other.jsonl").write_text('{"clip": "a"}\n')
    with pytest.raises(StepDiffError, match="not the attributes.jsonl of a world"):
        truth_figures(tmp_path / "other.jsonl")


def test_a_text_is_as_true_of_a_pair_that_it_leaves_no_more_of(tmp_path: Path) -> None:
    fast = replace(next(iter(CLIPS.values())).truth, speed="fast", hands="one hand", heat=None)
    slow = replace(fast, speed="slow")
    both_hands, fresh = replace(slow, hands="both hands"), replace(slow, motion="another")
    elsewhere = replace(slow, step=next(step for step in STEPS if step != fast.step))
    clips = {"fast": fast, "slow": slow, "both": both_hands, "fresh": fresh, "else": elsewhere}
    one, two = STEPS[fast.step].subactions[:2]
    for name, sequence in {
        "none": (MAIN,),
        "one": (one, two, MAIN),
        "two": (two, one, MAIN),
    }.items():
        clips[name] = replace(fast, sequence=sequence)
    lines = [json.dumps({"clip": name, **asdict(truth)}) + "\n" for name, truth in clips.items()]
    (tmp_path / "attributes.jsonl").write_text("".join(lines))
    as_true, text = (
        as_true_by(tmp_path / "attributes.jsonl"),
        "this person moves slowly and not fast",
    )
    for own, other, expected in (
        ("fast slow", "fast slow", True),
        ("fast slow", "slow fast", False),
        ("fast slow", "fast both", False),  # "and with both hands" is left out
        ("fast both", "fast slow", True),
        ("fast both", "fast fresh", True),  # of either pair it leaves out one thing
        ("fast slow", "slow both", False),
        ("fast slow", "fast else", False),
    ):
        assert as_true(text, "Technique", pair_of(own), pair_of(other)) == expected, (own, other)
    (order,) = changes("Actions", clips["one"], clips["two"], "test", 1, random.Random(0))
    assert as_true(order, "Actions", ("one", "two"), ("none", "two")), (
        "its candidate does both, in this order"
    )
    assert not as_true(order, "Actions", ("one", "two"), ("two", "one"))
    assert not as_true("a difference", "Technique", ("fast", "slow"), ("fast", "slow")), (
        "it states nothing"
    )
    with pytest.raises(
        StepDiffError, match="fast and else, Technique: not a row of the sample world"
    ):
        as_true(text, "Technique", ("fast", "else"), ("fast", "slow"))


def pair_of(names: str) -> Pair:
    reference, candidate = names.split()
    return reference, candidate


class Catalog:
    """A store of which only the catalog is there, of the clips of a rendered world."""

    def __init__(self, path: Path, columns: dict[str, list[str]]) -> None:
        self.path, self._frame = path, pl.DataFrame(columns)

    def catalog(self, entity: str) -> "Catalog":
        assert entity == "clips"
        return self

    def frame(self) -> pl.DataFrame:
        return self._frame


@pytest.fixture(scope="module")
def world_clips() -> list[Clip]:
    return [clip for video in make_world(6, 3) for clip in video.clips]


def write_world(world_clips: list[Clip], folder: Path) -> None:
    folder.mkdir()
    lines = [json.dumps({"clip": clip.id, **asdict(clip.truth)}) + "\n" for clip in world_clips]
    (folder / "attributes.jsonl").write_text("".join(lines))


@pytest.fixture
def world_store(world_clips: list[Clip], tmp_path: Path) -> Any:
    """The store of a world, with the folders of that world and of another one next to it."""
    write_world(world_clips, tmp_path / "kitchen")
    write_world([clip for video in make_world(6, 4) for clip in video.clips], tmp_path / "another")
    columns = {"key": "id", "video": "video", "step": "step"}
    rows = [
        {"id": c.id, "video": f"videos/{c.video}.mp4", "step": c.truth.step} for c in world_clips
    ]
    rows.append({"id": "picture_0_1", "video": "images/picture.jpg", "step": ""})
    return Catalog(
        tmp_path / "features", {name: [row[own] for row in rows] for name, own in columns.items()}
    )


@pytest.fixture
def control(world_store: Any) -> MostDifferences:
    return MostDifferences(world_store, None, "cpu")


def naive(category: str, one: Attributes, other: Attributes) -> int:
    """Count attributes of one value that differ."""
    names = [name for name in CATEGORY_ATTRIBUTES[category] if name not in ("extras", "sequence")]
    return sum(getattr(one, name) != getattr(other, name) for name in names)


def test_an_option_scores_its_number_of_differences(
    control: MostDifferences, world_clips: list[Clip]
) -> None:
    pairs = [
        (one, other)
        for one in world_clips
        for other in world_clips
        if one is not other and one.truth.step == other.truth.step
    ]
    rows = []
    for category in ("Tools/Equipment", "Technique", "Visuals", "Actions"):
        for place in range(0, len(pairs) - 3, 4):
            options = tuple((one.id, other.id) for one, other in pairs[place : place + 4])
            rows.append(DiffMCQ("any text", category, options, options[0]))
    scored = control.score_options(rows)
    assert len(rows) > 20 and scored == [control.score_options([row])[0] for row in rows]
    truth = {clip.id: clip.truth for clip in world_clips}
    for row, scores in zip(rows, scored, strict=True):
        assert len(set(scores)) == 4
        counts = [
            naive(row.category, truth[one], truth[other])
            if row.category != "Actions"
            else len(differences("Actions", truth[one], truth[other]))
            for one, other in row.options
        ]
        assert [int(score) for score in scores] == counts


def test_all_questions_can_be_answered_from_true_attributes(tmp_path: Path) -> None:
    """With --truth no wrong option is as true as the right one, and a reader of the true attributes
    has no error."""
    clips = of_split("test")
    write_world(clips, tmp_path / "world")
    columns = {"key": [c.id for c in clips], "video": [f"videos/{c.video}.mp4" for c in clips]}
    store: Any = Catalog(tmp_path / "features", columns | {"step": [c.truth.step for c in clips]})
    reader, as_true = (
        TrueAttributes(store, None, "cpu"),
        as_true_by(tmp_path / "world/attributes.jsonl"),
    )
    rows = [row for row in testsets.diffcap(clips, 60, 0, "test") if row.category == "Ingredients"]
    test_set = StatedDifferences(
        StatedDifference((row.reference, row.candidate), row.category, row.text[0]) for row in rows
    )
    drawn = random_negatives(test_set, 0, as_true)
    for questions, at_least in ((random_negatives(test_set, 0).questions, 1), (drawn.questions, 0)):
        options = [
            (row, option) for row in questions for option in row.options if option != row.answer
        ]
        count = sum(
            as_true(row.difference, row.category, row.answer, option) for row, option in options
        )
        assert min(count, 1) == at_least
    assert drawn.passed > 0 and len(drawn.questions) == len(rows)
    assert (
        score_captions("diffmcq", drawn.questions, reader.score_options(drawn.questions), 0)[
            "accuracy"
        ]
        == 1.0
    )
    ranked = testsets.diffrank(clips, 20, 0)
    for row, likeness in zip(ranked, reader.rank(ranked), strict=True):
        assert [value < -UNTRUE for value in likeness] == [true == 0 for true in row.scores]


def test_a_store_of_no_rendered_world_is_refused_in_one_line(
    world_store: Any, control: MostDifferences, world_clips: list[Clip], tmp_path: Path
) -> None:
    for columns, message in (
        ({"key": ["a"]}, "its catalog has no columns video and step"),
        ({"key": ["a"], "video": ["videos/a.mp4"], "step": ["stir"]}, "no world of its clips"),
    ):
        other: Any = Catalog(tmp_path / "features", columns)
        with pytest.raises(StepDiffError, match=message):
            MostDifferences(other, None, "cpu")
    far: Any = Catalog(
        tmp_path / "elsewhere/features", world_store.frame().to_dict(as_series=False)
    )
    with pytest.raises(StepDiffError, match="no world of its clips"):
        MostDifferences(far, None, "cpu")
    options = (("a_0_1", "b_0_1"), *(("a_0_1", f"{name}_0_1") for name in "cde"))
    with pytest.raises(StepDiffError, match="a_0_1: not a clip of the rendered world"):
        control.score_options([DiffMCQ("any text", "Visuals", options, options[0])])


def test_the_world_is_found_next_to_the_store_or_by_its_paths(
    world_store: Any,
    control: MostDifferences,
    world_clips: list[Clip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert control.truth == {clip.id: clip.truth for clip in world_clips}, (
        "not those of the other world"
    )
    far: Any = Catalog(
        tmp_path / "elsewhere/features", world_store.frame().to_dict(as_series=False)
    )
    monkeypatch.chdir(tmp_path / "kitchen")
    assert MostDifferences(far, None, "cpu").truth == control.truth
    write_world(world_clips, tmp_path / "copy")
    assert MostDifferences(world_store, None, "cpu").truth == control.truth, "a copy of the world"
    write_world(world_clips[:-1], tmp_path / "part")
    with pytest.raises(StepDiffError, match="several worlds of its clips"):
        MostDifferences(world_store, None, "cpu")
