"""Texts and test sets agree with the ground truth, each in its own pool of phrasings."""

import itertools
import random
import re
from collections import Counter

import pytest

from kitchen.attributes import differences, score
from kitchen.files import narration, pairqa_words, testsets
from kitchen.files.narration import heard, narrate
from kitchen.files.pairqa import Record, caption, paired_questions, state_for_pairqa
from kitchen.files.texts import facts, mentioned
from kitchen.steps import STEPS
from kitchen.world import Clip, make_world
from tasks.prompts import DIFFCAP_SEED, DIFFMCQ_SEED, MAIN_ACTION
from tasks.testsets import CATEGORIES

WORLD = make_world(132, 0)
CLIPS = {clip.id: clip for video in WORLD for clip in video.clips}
TRAIN = [clip for clip in CLIPS.values() if clip.split == "train"]
RECORDS = paired_questions(TRAIN, 0, "supervised")
S1 = paired_questions(TRAIN, 0, "s1")
both = pytest.mark.parametrize("records", [S1, RECORDS], ids=["s1", "supervised"])


def templates(*tables: dict[str, tuple[str, ...]] | tuple[str, ...]) -> tuple[str, ...]:
    pools = [pool for table in tables for pool in (table.values() if isinstance(table, dict) else [table])]
    return tuple(template for pool in pools for template in pool if template)


_ASKED = (pairqa_words.QUESTIONS, pairqa_words.COMMON, pairqa_words.WHICH)
_ANSWERS = (pairqa_words.CONTRASTS, pairqa_words.ONE_SIDED, pairqa_words.SAME, pairqa_words.SHARED)
_STATES = (pairqa_words.STATE, pairqa_words.CHANGE, pairqa_words.CAPTIONS, pairqa_words.VISIBLE)
POOLS = {
    "narration": templates(narration.OPENERS, narration.OFF_TOPIC, narration.SPOKEN),
    "pairqa": templates(*_ASKED, *_ANSWERS, *_STATES),
    "test": templates(testsets.SUBJECTS, testsets.CHANGE),
}


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
    assert set(testsets.CHANGE) == set(pairqa_words.CHANGE) - {"step"} == set(pairqa_words.STATE) - {"step"}
    assert set(testsets.CHANGE) == set(pairqa_words.WHICH) - {"step"}
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


@both
def test_pairqa_uses_training_clips_only(records: list[Record]) -> None:
    for record in records:
        for side in ("reference", "candidate"):
            assert CLIPS[str(record[side])].split == "train"
        same = CLIPS[str(record["reference"])].truth.step == CLIPS[str(record["candidate"])].truth.step
        if record["type"] != 3:
            assert same != (record["category"] == MAIN_ACTION)


@both
def test_pairqa_has_the_requested_size_and_groups_questions_by_pair(records: list[Record]) -> None:
    runs = [key for key, _ in itertools.groupby(records, lambda r: (r["reference"], r["candidate"]))]
    pairs = set(runs)
    assert 1300 <= len(pairs) <= 1700
    assert len(runs) <= len(pairs) * 1.03  # a clip paired with itself, or a pair of different steps, may be drawn twice
    assert 4 <= len(records) / len(runs) <= 9
    assert any((b, a) in pairs for a, b in pairs)


def test_s1_asks_about_a_similar_main_action_only() -> None:
    decisions = [record for record in S1 if record["type"] == 3]
    assert {record["category"] for record in decisions} == {MAIN_ACTION}
    counts = Counter(record["answer"] for record in decisions)
    assert counts["NO"] > 200 and abs(counts["YES"] - counts["NO"]) < 10
    assert not any(record["reference"] == record["candidate"] for record in S1)
    assert {record["type"] for record in S1} == {1, 2, 3}


@both
def test_no_answer_begins_with_the_text_that_the_tests_seed_answers_with(records: list[Record]) -> None:
    seeds = {DIFFMCQ_SEED, *(DIFFCAP_SEED.format(category=category) for category in (*CATEGORIES, MAIN_ACTION))}
    for record in records:
        assert not str(record["answer"]).lower().startswith(tuple(seed.lower().rstrip(" ,;") for seed in seeds))


@both
def test_what_both_videos_share_is_true_of_both(records: list[Record]) -> None:
    told = 0
    for record in records:
        text = str(record["answer"])
        if not text.startswith(tuple(shared.format(state="").rstrip(".") for shared in pairqa_words.SHARED)):
            continue
        a, b = (dict(facts(CLIPS[str(record[side])].truth)) for side in ("reference", "candidate"))
        for name in ("vessel", "surface", "gloves", "texture", "manner"):
            value = a.get(name)
            if value is not None and a[name] != b.get(name):
                assert f" {value}" not in text
        told += 1
    assert told > 300


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


@both
def test_answers_to_which_video_are_balanced(records: list[Record]) -> None:
    counts = Counter(r["answer"] for r in records if r["type"] == 2)
    assert set(counts) == {"Video 1", "Video 2"}
    assert 0.46 < counts["Video 1"] / counts.total() < 0.54


@both
def test_which_video_asks_about_something_that_only_one_video_shows(records: list[Record]) -> None:
    checked = 0
    for record in records:
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


@both
def test_only_equal_clips_are_answered_with_no_difference(records: list[Record]) -> None:
    plain = 0
    asked = tuple(question.split("{")[0] for question in pairqa_words.COMMON)
    for record in records:
        if record["type"] == 1 and record["category"] != MAIN_ACTION and not str(record["question"]).startswith(asked):
            a, b = (CLIPS[str(record[side])].truth for side in ("reference", "candidate"))
            differing = bool(differences(str(record["category"]), a, b))
            says_none = any(
                record["answer"] == t.format(topic=topic)
                for t in pairqa_words.SAME
                for topic in pairqa_words.TOPICS[str(record["category"])]
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


@pytest.mark.parametrize(("split", "caps", "ranks"), [("test", 400, 100), ("val", 150, 50)])
def test_test_sets_are_large_enough(split: str, caps: int, ranks: int) -> None:
    pairs, rows = testsets.SIZES[split]
    assert len(testsets.diffcap(of_split(split), pairs, 0)) >= caps
    assert len(testsets.diffrank(of_split(split), rows, 0)) >= ranks


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffcap_texts_name_true_differences(split: str) -> None:
    rows = testsets.diffcap(of_split(split), testsets.SIZES[split][0], 0)
    asked = set()
    for row in rows:
        a, b = CLIPS[row.reference], CLIPS[row.candidate]
        assert (a.split, b.split) == (split, split)
        assert differences(row.category, a.truth, b.truth)
        texts = row.text
        assert len(set(texts)) == testsets.TONES
        for d in mentioned(row.category, a.truth, b.truth):
            if d.attribute in ("gloves", "main", "colour"):
                assert all(d.new.split()[-1] in t and d.old.split()[-1] in t for t in texts)
        asked.add((*sorted((a.id, b.id)), row.category))
    assert len(asked) == len(rows)


def test_in_a_large_split_a_pair_differs_in_every_category_and_its_clips_are_in_one_or_two_pairs() -> None:
    own = [clip for video in make_world(264, 0) for clip in video.clips if clip.split == "test"]
    rows = testsets.diffcap(own, testsets.SIZES["test"][0], 0)
    pairs = Counter((row.reference, row.candidate) for row in rows)
    assert len(pairs) == testsets.SIZES["test"][0] and set(pairs.values()) == {len(CATEGORIES)}
    uses = Counter(clip for pair in pairs for clip in pair)
    assert max(uses.values()) == testsets.PAIRS_A_CLIP
    assert 1.4 < 2 * len(pairs) / len(uses) < 1.65, "V2 needs pairs that share a clip"
    step = {clip.id: clip.truth.step for clip in own}
    steps = Counter(step[reference] for reference, _ in pairs)
    assert set(steps.values()) == {testsets.SIZES["test"][0] // len(STEPS)}


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffrank_scores_equal_the_documented_scores(split: str) -> None:
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
    assert 0.27 < targets_elsewhere / (testsets.TARGETS * len(rows)) < 0.33
    assert set(Counter(r.category for r in rows)) == set(CATEGORIES)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_rows_of_a_diffrank_reference_are_adjacent_and_have_the_same_targets(split: str) -> None:
    rows = testsets.diffrank(of_split(split), testsets.SIZES[split][1], 0)
    runs = [list(run) for _, run in itertools.groupby(rows, key=lambda row: row.reference)]
    assert len(runs) == len({row.reference for row in rows}) and len(rows) / len(runs) > 4
    for run in runs:
        assert all(row.targets == run[0].targets for row in run)
        assert len({row.category for row in run}) == len(run)
    levels = Counter(len(set(row.scores)) for row in rows)
    assert levels[2] < len(rows) / 2, "scores differ if any of the draws allows it"


def test_every_step_has_a_gerund() -> None:
    spoken = {pairqa_words.STATE["step"][0].format(v=s) for s in STEPS}
    assert len(spoken) == len(STEPS)
