"""Texts and test sets agree with the ground truth; phrasings are split into train, val and test."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from kitchen.__main__ import Options
from kitchen.attributes import differences, score
from kitchen.files import narration, pairqa_words, testsets
from kitchen.files.narration import heard, narrate
from kitchen.files.pairqa import Record, caption, paired_questions, state
from kitchen.files.phrasings import OMISSIONS, STATEMENTS, Split, bank, category_of, clauses, conjugated
from kitchen.files.texts import facts, mentioned
from kitchen.steps import STEPS
from kitchen.world import SPLITS, Clip, make_world
from tasks.prompts import DIFFCAP_SEED, DIFFMCQ_SEED, MAIN_ACTION
from tasks.testsets import CATEGORIES

WORLD = make_world(132, 0)
CLIPS = {clip.id: clip for video in WORLD for clip in video.clips}
TRAIN = [clip for clip in CLIPS.values() if clip.split == "train"]
RECORDS = paired_questions(TRAIN, 0, "supervised")
S1 = paired_questions(TRAIN, 0, "s1")
both = pytest.mark.parametrize("records", [S1, RECORDS], ids=["s1", "supervised"])


def of_split(split: str) -> list[Clip]:
    return [clip for clip in CLIPS.values() if clip.split == split]


# -- phrasings -------------------------------------------------------------------------------------


def test_no_phrasing_is_in_two_splits_whatever_it_says() -> None:
    splits: dict[str, set[str]] = {}
    for phrasings in bank().values():
        for clause, split in phrasings.items():
            splits.setdefault(clause, set()).add(split)
    assert [clause for clause, of in splits.items() if len(of) > 1] == []


def test_every_category_has_forty_clauses_and_each_kind_of_difference_three_in_each_split() -> None:
    assert set(bank()) == set(STATEMENTS) | set(OMISSIONS)
    counts = Counter(category_of(name) for name in bank() for _ in bank()[name] if name != "step")
    assert min(counts[category] for category in CATEGORIES) >= 40
    for name in set(bank()) - {"step"}:
        for split in SPLITS:
            assert len(clauses(name, split)) >= testsets.TEXTS


def words(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in re.findall(r"[\w'-]+", text.lower()))


def test_at_most_two_percent_of_the_words_of_test_texts_are_in_no_training_text() -> None:
    world = make_world(Options(Path()).videos, 0)
    of = {split: [c for v in world for c in v.clips if c.split == split] for split in SPLITS}
    spoken = [piece.text for video in world if video.split == "train" for piece in narrate(video, 0)]
    asked = paired_questions(of["train"], 0, "s1")
    known = words([*spoken, *(str(record[name]) for record in asked for name in ("question", "answer"))])
    answers = {str(record["answer"]).rstrip(".") for record in asked}
    for split in ("val", "test"):
        rows = testsets.diffcap(of[split], testsets.SIZES[split][0], 0, split)
        texts = [text for row in rows for text in row.text]
        counts = words(texts)
        assert sum(n for word, n in counts.items() if word not in known) <= 0.02 * counts.total()
        assert not answers & set(texts)


def test_clauses_are_grammatical() -> None:
    rows = [row for split in ("val", "test") for row in testsets.diffcap(of_split(split), 200, 0, split)]
    texts = [text for row in rows for text in row.text] + [str(r[name]) for r in S1 for name in ("question", "answer")]
    wrong = re.compile(r"\ba [aeio]|\ban [^aeio]|\ba (?:tongs|scissors|chopsticks)\b|\b(\w+) \1\b|[{}]")
    assert [text for text in texts if wrong.search(text)] == []
    assert conjugated("they", "also be busy x", plural=True) == "they are also busy x"
    assert conjugated("the cook", "not be busy x") == "the cook is not busy x"
    assert conjugated("it", "not show x at all") == "it does not show x at all"
    assert conjugated("someone", "never touch it with x") == "someone never touches it with x"


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
    one, two = (state("Tools/Equipment", a, b, s, random.Random(1)) for s in ("old", "new"))
    assert a.tool.split()[-1] in one and b.tool.split()[-1] in two


# -- test sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "caps", "ranks"), [("test", 400, 100), ("val", 150, 50)])
def test_test_sets_are_large_enough(split: Split, caps: int, ranks: int) -> None:
    pairs, rows = testsets.SIZES[split]
    assert len(testsets.diffcap(of_split(split), pairs, 0, split)) >= caps
    assert len(testsets.diffrank(of_split(split), rows, 0)) >= ranks


@pytest.mark.parametrize("split", ["test", "val"])
def test_diffcap_texts_name_true_differences(split: Split) -> None:
    rows = testsets.diffcap(of_split(split), testsets.SIZES[split][0], 0, split)
    asked = set()
    for row in rows:
        a, b = CLIPS[row.reference], CLIPS[row.candidate]
        assert (a.split, b.split) == (split, split)
        assert differences(row.category, a.truth, b.truth)
        texts = row.text
        assert len(set(texts)) == testsets.TEXTS
        for d in mentioned(row.category, a.truth, b.truth):
            if d.attribute in ("gloves", "main", "colour"):
                assert all(d.new.split()[-1] in t and d.old.split()[-1] in t for t in texts)
        asked.add((*sorted((a.id, b.id)), row.category))
    assert len(asked) == len(rows)


def test_in_a_large_split_a_pair_differs_in_every_category_and_its_clips_are_in_one_or_two_pairs() -> None:
    own = [clip for video in make_world(264, 0) for clip in video.clips if clip.split == "test"]
    rows = testsets.diffcap(own, testsets.SIZES["test"][0], 0, "test")
    pairs = Counter((row.reference, row.candidate) for row in rows)
    assert len(pairs) == testsets.SIZES["test"][0] and set(pairs.values()) == {len(CATEGORIES)}
    uses = Counter(clip for pair in pairs for clip in pair)
    assert max(uses.values()) == testsets.PAIRS_A_CLIP
    assert 1.4 < 2 * len(pairs) / len(uses) < 1.65, "V2 needs pairs that share a clip"
    step = {clip.id: clip.truth.step for clip in own}
    steps = Counter(step[reference] for reference, _ in pairs)
    assert set(steps.values()) == {testsets.SIZES["test"][0] // len(STEPS)}


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
    assert 0.27 < targets_elsewhere / (testsets.TARGETS * len(rows)) < 0.33
    assert set(Counter(r.category for r in rows)) == set(CATEGORIES)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_rows_of_a_diffrank_reference_are_adjacent_and_have_the_same_targets(split: Split) -> None:
    rows = testsets.diffrank(of_split(split), testsets.SIZES[split][1], 0)
    runs = [list(run) for _, run in itertools.groupby(rows, key=lambda row: row.reference)]
    assert len(runs) == len({row.reference for row in rows}) and len(rows) / len(runs) > 4
    for run in runs:
        assert all(row.targets == run[0].targets for row in run)
        assert len({row.category for row in run}) == len(run)
    levels = Counter(len(set(row.scores)) for row in rows)
    assert levels[2] < len(rows) / 2, "scores differ if any of the draws allows it"
