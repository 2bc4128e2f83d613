"""Texts and test sets agree with the ground truth, each in its own pool of phrasings."""

import itertools
import random
import re
from collections import Counter
from functools import cache

import pytest

from kitchen.attributes import differences, score
from kitchen.files import narration, pairqa, testsets
from kitchen.files.narration import heard, narrate
from kitchen.files.pairqa import MAIN_ACTION, caption, paired_questions, state_for_pairqa
from kitchen.files.texts import facts, mentioned
from kitchen.steps import CATEGORIES, STEPS
from kitchen.world import Clip, make_world
from tasks.testsets import DiffMCQ

WORLD = make_world(132, 0)
CLIPS = {clip.id: clip for video in WORLD for clip in video.clips}
TRAIN = [clip for clip in CLIPS.values() if clip.split == "train"]
RECORDS = paired_questions(TRAIN, 0)


def templates(*tables: dict[str, tuple[str, ...]] | tuple[str, ...]) -> tuple[str, ...]:
    pools = [pool for table in tables for pool in (table.values() if isinstance(table, dict) else [table])]
    return tuple(template for pool in pools for template in pool if template)


_ANSWERS = (pairqa.QUESTIONS, pairqa.CONTRASTS, pairqa.ONE_SIDED, pairqa.SAME, pairqa.CAPTIONS)
POOLS = {
    "narration": templates(narration.OPENERS, narration.OFF_TOPIC, narration.SPOKEN),
    "pairqa": templates(*_ANSWERS, pairqa.STATE, pairqa.CHANGE, pairqa.WHICH, pairqa.VISIBLE),
    "test": templates(testsets.SUBJECTS, testsets.CHANGE),
}


@cache
def mcq(split: str) -> list[DiffMCQ]:
    return testsets.diffmcq(of_split(split), testsets.SIZES[split][1], 0)


def of_split(split: str) -> list[Clip]:
    return [clip for clip in CLIPS.values() if clip.split == split]


# -- pools -----------------------------------------------------------------------------------------


def grams(templates: tuple[str, ...], size: int) -> set[tuple[str, ...]]:
    """Return the word sequences of length `size` in the fixed parts of templates."""
    found = set()
    for template in templates:
        for part in re.split(r"\{\w+\}|[.,;:?!]", template.lower()):
            words = part.split()
            found |= {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
    return found


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(POOLS, 2)))
def test_pools_are_disjoint(one: str, two: str) -> None:
    assert not set(POOLS[one]) & set(POOLS[two])
    assert grams(POOLS[one], 4), "a pool without any 4-gram would prove nothing"
    assert not grams(POOLS[one], 4) & grams(POOLS[two], 4)


def test_every_difference_has_words_in_both_pools() -> None:
    assert set(testsets.CHANGE) == set(pairqa.CHANGE) - {"step"} == set(pairqa.STATE) - {"step"}
    assert set(testsets.CHANGE) == set(pairqa.WHICH) - {"step"}
    assert set(testsets.SUBJECTS) == set(CATEGORIES)


# -- narration -------------------------------------------------------------------------------------


def test_narration_mentions_most_attributes() -> None:
    shown = mentioned = shifted = 0
    for video in WORLD:
        pieces = narrate(video, 0)
        assert pieces == narrate(video, 0)
        assert [p.start for p in pieces] == sorted(p.start for p in pieces)
        for clip in video.clips:
            text = heard(pieces, clip)
            words = [v for a, v in facts(clip.truth) if a in ("main", "tool", "colour")]
            shown += len(words)
            mentioned += sum(v.split()[-1] in text for v in words)
            shifted += not any(abs(p.start - clip.start - 0.05) < 0.01 for p in pieces)
            assert text == text.lower()
            assert not re.search(r"[.,;:!?]", text)
    assert 0.6 < mentioned / shown < 0.85
    assert 0.03 < shifted / len(CLIPS) < 0.14


def test_some_speech_is_off_topic() -> None:
    pieces = [p for video in WORLD for p in narrate(video, 0)]
    off = sum(p.text in narration.OFF_TOPIC for p in pieces)
    assert 0.04 < off / len(pieces) < 0.13


# -- captions --------------------------------------------------------------------------------------


def test_captions_name_visible_attributes() -> None:
    for clip in TRAIN[:80]:
        text = caption(clip.truth, random.Random(clip.id))
        for attribute, value in facts(clip.truth):
            if attribute in ("main", "has", "tool", "colour", "shade", "gloves"):
                assert value.split()[-1] in text
        assert "quickly" not in text and "slowly" not in text


# -- paired questions ------------------------------------------------------------------------------


def test_pairqa_uses_training_clips_only() -> None:
    for record in RECORDS:
        for side in ("reference", "candidate"):
            assert CLIPS[str(record[side])].split == "train"
        same = CLIPS[str(record["reference"])].truth.step == CLIPS[str(record["candidate"])].truth.step
        if record["type"] != 3:
            assert same != (record["category"] == MAIN_ACTION)


def test_pairqa_has_the_requested_size_and_groups_questions_by_pair() -> None:
    runs = [key for key, _ in itertools.groupby(RECORDS, lambda r: (r["reference"], r["candidate"]))]
    pairs = set(runs)
    assert 1300 <= len(pairs) <= 1700
    assert len(runs) <= len(pairs) * 1.03  # a clip paired with itself, or a pair of different steps, may be drawn twice
    assert 7 <= len(RECORDS) / len(runs) <= 8
    assert any((b, a) in pairs for a, b in pairs)


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


def test_a_clip_paired_with_itself_has_no_difference_and_the_answer_says_so() -> None:
    own = [r for r in RECORDS if r["reference"] == r["candidate"]]
    assert 0.05 < len({r["reference"] for r in own}) / 1500 < 0.12
    assert {r["answer"] for r in own if r["type"] == 3} == {"YES"}
    assert not any(r["type"] == 2 for r in own)
    kinds = Counter(r["type"] for r in own)
    assert kinds[3] > 500 and kinds[1] > 30


def test_answers_to_which_video_are_balanced() -> None:
    counts = Counter(r["answer"] for r in RECORDS if r["type"] == 2)
    assert set(counts) == {"Video 1", "Video 2"}
    assert 0.46 < counts["Video 1"] / counts.total() < 0.54


def test_which_video_asks_about_something_that_only_one_video_shows() -> None:
    checked = 0
    for record in RECORDS:
        if record["type"] != 2 or record["category"] != "Tools/Equipment":
            continue
        one, two = (CLIPS[str(record[side])].truth for side in ("reference", "candidate"))
        right, wrong = (two, one) if record["answer"] == "Video 2" else (one, two)
        question = str(record["question"])
        for name in ("vessel", "surface", "gloves"):
            if getattr(right, name) in question:
                assert getattr(wrong, name) != getattr(right, name)
                checked += 1
    assert checked > 100


def test_only_equal_clips_are_answered_with_no_difference() -> None:
    plain = 0
    for record in RECORDS:
        if record["type"] == 1 and record["category"] != MAIN_ACTION:
            a, b = (CLIPS[str(record[side])].truth for side in ("reference", "candidate"))
            differing = bool(differences(str(record["category"]), a, b))
            says_none = any(
                record["answer"] == t.format(topic=topic)
                for t in pairqa.SAME
                for topic in pairqa.TOPICS[str(record["category"])]
            )
            assert differing != says_none
            plain += says_none
    assert plain > 30


def test_statements_are_true() -> None:
    a, b = next(
        (x.truth, y.truth)
        for x, y in itertools.permutations(TRAIN, 2)
        if x.truth.step == y.truth.step and x.truth.tool != y.truth.tool
    )
    one, two = (state_for_pairqa("Tools/Equipment", a, b, s, random.Random(1)) for s in ("old", "new"))
    assert a.tool.split()[-1] in one and b.tool.split()[-1] in two


# -- test sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "caps", "choices", "ranks"), [("test", 50, 150, 100), ("val", 25, 75, 50)])
def test_test_sets_are_large_enough(split: str, caps: int, choices: int, ranks: int) -> None:
    limits = testsets.SIZES[split]
    assert len(testsets.diffcap(of_split(split), limits[0], 0)) >= caps
    assert len(mcq(split)) >= choices
    assert len(testsets.diffrank(of_split(split), limits[2], 0)) >= ranks


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffcap_texts_name_true_differences(split: str) -> None:
    rows = testsets.diffcap(of_split(split), 150, 0)
    pairs = set()
    for row in rows:
        a, b = CLIPS[row.reference], CLIPS[row.candidate]
        assert (a.split, b.split) == (split, split)
        found = differences(row.category, a.truth, b.truth)
        assert found
        texts = row.text
        assert len(set(texts)) == testsets.TONES
        for d in mentioned(row.category, a.truth, b.truth):
            if d.attribute in ("gloves", "main", "colour"):
                assert all(d.new.split()[-1] in t and d.old.split()[-1] in t for t in texts)
        pairs.add(frozenset((a.id, b.id)))
    assert len(pairs) == len(rows)
    assert set(Counter(r.category for r in rows)) == set(CATEGORIES)


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffmcq_negatives_do_not_exhibit_the_difference(split: str) -> None:
    rows = mcq(split)
    places: Counter[int] = Counter()
    answers = set()
    for row in rows:
        options, answer, category = row.options, row.answer, row.category
        assert len(options) == 4
        assert len({frozenset(option) for option in options}) == 4
        places[options.index(answer)] += 1
        answers.add(frozenset(answer))
        a, b = (CLIPS[c].truth for c in answer)
        named = mentioned(category, a, b)
        text = row.difference
        for d in named:
            if d.attribute in ("main", "gloves", "colour", "shade", "size"):
                assert d.new.split()[-1] in text and d.old.split()[-1] in text
        for option in options:
            one, two = (CLIPS[c].truth for c in option)
            assert one.step == two.step == a.step
            assert CLIPS[option[0]].split == CLIPS[option[1]].split == split
            if option == answer:
                continue
            theirs = differences(category, one, two)
            for d in named:
                for e in theirs:
                    if d.attribute in ("extras", "subaction"):
                        assert {e.old, e.new} != {d.old, d.new} or e.attribute != d.attribute
                    elif e.attribute == d.attribute:
                        assert e.new != d.new and e.old != d.old
                        assert (e.new, e.old) != (d.old, d.new)
    assert len(answers) == len(rows)
    assert set(places) == {0, 1, 2, 3} and max(places.values()) < 0.36 * len(rows)


def test_diffmcq_answers_cannot_be_guessed_from_shared_clips() -> None:
    """Choosing the pair that shares the fewest clips with the other options is near chance."""
    right = 0.0
    for row in mcq("test"):
        options = row.options
        shared = [sum(len(set(a) & set(b)) for b in options if b is not a) for a in options]
        guesses = [o for o, n in zip(options, shared, strict=True) if n == min(shared)]
        right += (row.answer in guesses) / len(guesses)
    assert right / len(mcq("test")) < 0.35


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffrank_scores_equal_the_documented_scores(split: str) -> None:
    rows = testsets.diffrank(of_split(split), testsets.SIZES[split][2], 0)
    foreign = 0
    for row in rows:
        targets, scores = row.targets, row.scores
        reference, category = CLIPS[row.reference], row.category
        assert len(set(targets) | {reference.id}) == 5
        assert list(scores) == [score(category, reference.truth, CLIPS[t].truth) for t in targets]
        assert len(set(scores)) > 1
        assert scores.count(0) <= 2
        foreign += 0 in scores
    assert 0.12 < foreign / len(rows) < 0.38
    assert set(Counter(r.category for r in rows)) == set(CATEGORIES)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_rows_of_a_diffrank_reference_are_adjacent_and_have_the_same_targets(split: str) -> None:
    rows = testsets.diffrank(of_split(split), testsets.SIZES[split][2], 0)
    runs = [list(run) for _, run in itertools.groupby(rows, key=lambda row: row.reference)]
    assert len(runs) == len({row.reference for row in rows}) and len(rows) / len(runs) > 4
    for run in runs:
        assert all(row.targets == run[0].targets for row in run)
        assert len({row.category for row in run}) == len(run)
    levels = Counter(len(set(row.scores)) for row in rows)
    assert levels[2] < len(rows) / 2, "scores differ if any of the draws allows it"


def test_every_step_has_a_gerund() -> None:
    spoken = {pairqa.STATE["step"][0].format(v=s) for s in STEPS}
    assert len(spoken) == len(STEPS)
