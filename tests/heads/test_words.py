"""heads.words and the method word-evidence: sums, terms, the pass over a store, evidence in
StepDiff."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.special import expit
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from heads import ask, differences, evaluate, train, words
from heads.data.clips import Features
from heads.data.packing import Turn
from heads.data.paired_qa import PairQuestions
from heads.evidence import fitting
from heads.evidence.fitting import (
    Counting,
    Fit,
    Pooled,
    Sums,
    calibrate,
    declines,
    fit,
    squared_errors,
    total,
)
from heads.evidence.head import POOLING, WordHead, fold_of, pool
from heads.evidence.wording import is_about_both, learn, occurrences, pieces, terms_of
from heads.methods.stepdiff import Answering, StepDiff
from heads.methods.word_evidence import LEFT_OUT, NEW, SAYS, WordEvidence
from heads.models.language_model import LanguageModel
from heads.models.video_lm import Projector, VideoLM
from heads.training.recipe import EvidenceOptions, ProjectorOptions, read_recipe
from heads.words import WordOptions
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.rows import Choice
from stepdiff_core.tasks.prompts import DIFFCAP_SEED, MAIN_ACTION, NO_DIFFERENCE, SIMILAR_QUESTION
from stepdiff_core.tasks.testsets import DiffCap, DiffRank, Pair, read_test_set
from stepdiff_core.workers.cluster import connected
from store import Feature, Store
from tests.heads.conftest import (
    CHANNELS,
    TOKENS,
    Capture,
    provenance,
    read_rows,
    recipe,
    write_rows,
)
from tests.heads.runs import assert_same_weights, interrupted_at
from tests.refusals import refuses


def command(world: Path, out: Path, *more: str) -> list[str]:
    given = [
        "--store",
        str(world / "features"),
        "--view",
        "visual",
        "--pairqa",
        str(world / "pairqa.jsonl"),
    ]
    return [*given, "--out", str(out), "--least", "3", "--folds", "3", *more]


def options(world: Path, out: Path) -> WordOptions:
    return WordOptions(
        str(world / "features"), "visual", str(out), str(world / "pairqa.jsonl"), least=3, folds=3
    )


def of_tools(test_set: Path, copy: Path) -> Path:
    """Copy a test set, with the category that the paired questions have."""
    copy.write_text(test_set.read_text().replace('"Visuals"', '"Tools/Equipment"'))
    return copy


@pytest.fixture(scope="module")
def head(world: Path) -> WordHead:
    out = world / "words"
    validation = of_tools(world / "diffrank_val.jsonl", world / "words_val.jsonl")
    assert words.main(command(world, out, "--validation", str(validation))) == 0
    return WordHead.load(out)


def arrays(seed: int, clips: int) -> tuple[np.ndarray, sparse.csr_matrix]:
    random = np.random.default_rng(seed)
    # the last channel is constant
    values = random.standard_normal((clips, 7)) * [1, 2, 3, 4, 5, 6, 0] + 3
    labels = (values[:, :4] + random.standard_normal((clips, 4)) > 3).astype(float)
    labels[::5] /= 2
    return values, sparse.csr_matrix(labels)


@pytest.mark.parametrize("sizes", [[7], [3, 4]])
def test_sums_give_the_regressions_of_a_dense_implementation(sizes: list[int]) -> None:
    parts = [arrays(seed, clips) for seed, clips in enumerate((40, 30, 50))]
    sums = [Sums.of(*part) for part in parts]
    models, predictions = [], []
    for left, (values, _) in enumerate(parts):
        rest = [part for place, part in enumerate(parts) if place != left]
        scaler = StandardScaler().fit(np.concatenate([x for x, _ in rest]))
        standard = scaler.transform(np.concatenate([x for x, _ in rest]))
        labels = sparse.vstack([y for _, y in rest]).toarray()
        (model,) = fit(
            total([each for place, each in enumerate(sums) if place != left]), [0.3], sizes
        )
        expected = np.mean(
            [
                Ridge(alpha=0.3 * np.trace(x.T @ x) / x.shape[1]).fit(x, labels).predict(tested)
                for x, tested in zip(
                    np.split(standard, sizes[:-1], axis=1),
                    np.split(scaler.transform(values), sizes[:-1], axis=1),
                    strict=True,
                )
            ],
            axis=0,
        )
        np.testing.assert_allclose(values @ model.weights.T + model.bias, expected, atol=1e-8)
        np.testing.assert_allclose(
            squared_errors(model, sums[left]),
            ((expected - parts[left][1].toarray()) ** 2).sum(0),
            atol=1e-8,
        )
        models.append(model)
        predictions.append(expected)
    found = calibrate(models, sums)
    p, y = np.concatenate(predictions), sparse.vstack([y for _, y in parts]).toarray()
    one, zero = (y * p).sum(0) / y.sum(0), ((1 - y) * p).sum(0) / (1 - y).sum(0)
    variance = (y * (p - one) ** 2 + (1 - y) * (p - zero) ** 2).mean(0) + 1e-6
    np.testing.assert_allclose(found.with_term, one, atol=1e-8)
    np.testing.assert_allclose(found.without, zero, atol=1e-8)
    np.testing.assert_allclose(found.variance, variance, atol=1e-8)
    odds = found.log_odds(Fit(np.eye(4), np.zeros(4)))
    density = (-((p - one) ** 2) + (p - zero) ** 2) / (2 * variance)
    np.testing.assert_allclose(p @ odds.weights.T + odds.bias, density, atol=1e-8)


def test_terms_do_not_cross_punctuation_and_mentions() -> None:
    assert terms_of("red pan. Spoon") == {"red", "pan", "red pan", "spoon"}
    found = occurrences(
        "In the first video, a red pan; in Video 2 no spoon", {"red", "red pan", "spoon"}
    )
    assert [(one.term, one.video) for one in found] == [("red pan", 1), ("spoon", 2)]
    assert found[0].before == (",", "a") and found[1].before == ("no",)
    assert [one.video for one in occurrences("a spoon", {"spoon"}, 2)] == [2]
    text, terms = "A Red  pan; red. In Video 2: no spoon😀", {"red", "red pan", "pan", "spoon"}
    split = pieces(text, terms)
    assert split[1:4] == [("Red  pan", "red pan"), ("; ", ""), ("red", "red")] and split[-1] == (
        "😀",
        "",
    )
    assert "".join(part for part, _ in split) == text and pieces("İ red", terms) == [("İ red", "")]


def test_weights_of_words_are_the_same_in_any_process() -> None:
    code = (
        "import heads.evidence.wording as w; print(w.regression([set('abcdefg'), set('abd')] * 6, "
        "range(12)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        for seed in "123"
    }
    assert len(printed) == 1


def test_a_world_with_planted_words_is_solved(head: WordHead) -> None:
    assert {"whisk", "spoon", "fork"} <= set(head.terms)
    evidence = head.evidence(pooled(head, [f"video-_{i}_0.0_{i + 1}.5" for i in range(12, 24)]))
    for place, tool in enumerate(("whisk", "spoon", "fork")):
        own = evidence[:, head.columns[tool]]
        assert own[place::3].min() > max(np.delete(own, np.arange(place, 12, 3))), tool
    sides = [
        one.side(head.sides)
        for one in occurrences("In Video 1, a whisk, in Video 2, a fork.", head.columns)
    ]
    assert sides == pytest.approx([-1, 1], abs=0.4)


def pooled(head: WordHead, clips: list[str]) -> np.ndarray:
    store = Store.open(head.folder.parent / "features")
    tokens = store.view("clips", "visual").read("tokens", keys=clips, dtype="float32")
    return (np.sign(tokens) * np.abs(tokens) ** 0.5).mean(axis=1, dtype=np.float64)


def test_clips_of_another_action_are_further_apart(world: Path, head: WordHead) -> None:
    """Here the tool is the action; where no pair is of another step, the distance stays as it
    is."""
    actions = {MAIN_ACTION: dict.fromkeys(("whisk", "spoon", "fork"), 1.0)}
    told = replace(
        head, categories={**head.categories, **actions}, about={**head.about, "declines": None}
    )
    features, category = (
        Pooled(Store.open(world / "features"), "visual", POOLING),
        "Tools/Equipment",
    )
    targets = tuple(clip(place) for place in (13, 14, 15, 18))
    evidence = told.evidence(pooled(head, [clip(12), *targets]))
    apart = [told.distance(evidence[0], other, category) for other in evidence[1:]]
    for scores, far in (((0, 0, 5, 1), [8, 8, 0, 0]), ((3, 2, 5, 1), [0] * 4)):
        found = declines(
            told, features, [DiffRank(clip(12), targets, category, scores)], "rows.jsonl"
        )
        knowing = replace(told, about={**told.about, "declines": found})
        distances = [knowing.distance(evidence[0], other, category) for other in evidence[1:]]
        assert np.subtract(distances, apart) == pytest.approx(far)
        assert (found["other_action"] is None) == (0 not in scores)


def test_answers_to_all_tasks_are_scored_and_seen_clips_refused(
    world: Path, head: WordHead, tmp_path: Path, capsys: Capture
) -> None:
    given = [
        "--method",
        "word-evidence",
        "--head",
        str(head.folder),
        "--store",
        str(world / "features"),
    ]
    for task in ("diffmcq", "diffrank", "diffcap"):
        out = tmp_path / f"{task}.jsonl"
        test_set = of_tools(world / f"{task}_test.jsonl", tmp_path / f"{task}_test.jsonl")
        assert (
            evaluate.main([*given, "--task", task, "--test-set", str(test_set), "--out", str(out)])
            == 0
        )
        record = json.loads(out.with_suffix(".scores.json").read_text())
        assert record["disclosed"]["recipe"]["system"] == "Word evidence"
    assert record["seen"]["clips"] == 0
    seen = tmp_path / "diffrank_test.jsonl"
    seen.write_text(seen.read_text().replace("video-_18_0.0_19.5", "video-_1_0.0_2.5"))
    given += ["--task", "diffrank", "--out", str(tmp_path / "refused.jsonl"), "--test-set"]
    refuses(evaluate.main, [*given, str(seen)], capsys, "was trained on 1 of its")
    unknown = "no word of category 'Visuals' has evidence; the categories of its paired"
    refuses(evaluate.main, [*given, str(world / "diffrank_test.jsonl")], capsys, unknown)


def sums_of(world: Path, out: Path) -> list[np.ndarray]:
    """Run the pass in the folder and return all sums, also of a shard that is not full."""
    counting = Counting(options(world, out), Store.open(world / "features"))
    counting.run()
    return [array for sums in counting.sums for array in sums]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def with_shards(folder: Path, clips: int, copy_of: Path) -> Path:
    """Write the world's first clips in shards of 4, or the others to the store that is there
    already."""
    store = Store.open(folder / "features", create=True)
    frame = Store.open(copy_of / "features").catalog("clips").frame().drop("row")
    whole = Store.open(copy_of / "features").view("clips", "visual")
    with store.lock():
        catalog = store.catalog("clips")
        first = len(catalog)
        catalog.append(frame[first:clips])
        if "visual" not in store.views("clips"):
            store.create_view("clips", "visual", whole.provenance, whole.features, rows_per_shard=4)
        view = store.view("clips", "visual")
        view.resize()
        for shard in range(first // 4, -(-clips // 4)):
            rows = np.arange(max(shard * 4, first), min(shard * 4 + 4, clips))
            view.write_shard(
                shard, rows, {name: whole.read(name, rows) for name in whole.features}, {}
            )
    shutil.copy(copy_of / "pairqa.jsonl", folder / "pairqa.jsonl")
    return folder


def test_a_killed_pass_continues_with_the_same_bits(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    small, killed = with_shards(tmp_path, 22, world), tmp_path / "killed"
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    counting = Counting(options(small, killed), Store.open(small / "features"))
    add, saves = counting._add, list[int]()

    def dying(*given: Any) -> None:
        if len(saves) == 3:
            raise KeyboardInterrupt
        saves.append(1)
        add(*given)

    monkeypatch.setattr(counting, "_add", dying)
    with pytest.raises(KeyboardInterrupt):
        counting.run()
    parts = sums_of(small, killed)
    assert "killed: continues after 3 shards" in capsys.readouterr().err
    assert_same(sums_of(small, tmp_path / "whole"), parts)
    refused = (
        f"{killed}/sums.safetensors: it is of other clips, texts or options; remove it, and the "
        "next run"
    )
    store = Store.open(small / "features")
    with store.lock():
        store.view("clips", "visual").withdraw(np.array([5]))
    refuses(words.main, command(small, killed), capsys, refused)
    (killed / "sums.safetensors").write_bytes(b"damaged")
    refuses(
        words.main,
        command(small, killed),
        capsys,
        "sums.safetensors: its checksum differs; remove it",
    )
    (killed / "sums.safetensors").unlink()
    assert words.main(command(small, killed)) == 0 and not (killed / "sums.safetensors").exists()


def test_a_run_with_the_same_data_leaves_the_files(
    world: Path, tmp_path: Path, capsys: Capture
) -> None:
    small, out = with_shards(tmp_path, 14, world), tmp_path / "words"
    assert words.main(command(small, out)) == 0
    assert "nothing has changed" not in capsys.readouterr().out
    files = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    assert words.main(command(small, out)) == 0
    assert "nothing has changed: the head stays as it was written" in capsys.readouterr().out
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()} == files
    with_shards(small, 22, world)
    assert words.main(command(small, out)) == 0
    assert "nothing has changed" not in capsys.readouterr().out
    assert (out / "words.json").read_bytes() != files[out / "words.json"][0]


def test_a_damaged_head_of_words_is_refused(head: WordHead, tmp_path: Path) -> None:
    out = shutil.copytree(head.folder, tmp_path / "words")
    (out / "words.json").write_text(
        json.dumps(json.loads((out / "words.json").read_text()) | {"weights": {}})
    )
    with pytest.raises(StepDiffError, match="words.json: damaged, or of an earlier version"):
        WordHead.load(out)
    with pytest.raises(StepDiffError, match=r"holds no head of words \(words.json is missing\)"):
        WordHead.load(tmp_path)


def test_other_views_than_the_heads_are_refused(
    world: Path, head: WordHead, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "features", create=True)
    with store.lock():
        view = store.create_view(
            "clips", "other", provenance("other"), {"tokens": Feature((4, 8), "float32")}
        )
    with pytest.raises(
        StepDiffError, match="computed from other features than view other .*encoder"
    ):
        head.check(view)
    view = Store.open(world / "features").view("clips", "visual")
    view.provenance = replace(view.provenance, weights="1" * 64)
    with pytest.raises(
        StepDiffError, match="computed from other features than view visual .*weights"
    ):
        head.check(view)


def test_a_text_without_known_words_scores_zero_and_is_counted(world: Path, head: WordHead) -> None:
    method = WordEvidence.of_store(head, Store.open(world / "features"))
    rows = read_test_set("diffmcq", world / "diffmcq_test.jsonl")
    unknown = replace(rows[0], difference="xyzzy")
    assert method.score_options([unknown]) == [[0.0] * 4] and method.unknown([*rows, unknown]) == 1
    assert method.score_options(rows) == [method.score_options([row])[0] for row in rows], (
        "no batch changes a score"
    )


def planted(head: WordHead, world: Path, **shown: tuple[str, ...]) -> WordEvidence:
    """Return the method with certain evidence of the terms that each clip shows, and of no
    other."""
    method = WordEvidence.of_store(head, Store.open(world / "features"))
    for clip, terms in shown.items():
        method._evidence[clip] = np.array([40.0 if term in terms else -40.0 for term in head.terms])
    return method


def test_what_differs_and_goes_unnamed_counts_against_a_text(world: Path, head: WordHead) -> None:
    method = planted(head, world, a=("whisk",), b=("spoon",), c=("spoon", "fork"), d=("fork",))
    category, text = "Tools/Equipment", "a spoon instead of a whisk"
    only, more, other = method.score(text, category, [("a", "b"), ("a", "c"), ("a", "d")])
    assert only > more > other
    places, weights = head.nameable(category)
    left_out = weights[[head.terms[place] == "fork" for place in places]].sum()
    assert 0 < left_out < 1 and only - more == pytest.approx(LEFT_OUT * left_out)
    (without,) = method.score(text, "a category without words", [("a", "c")])
    assert without == pytest.approx(only)


def test_a_text_about_an_order_is_true_of_both_clips(world: Path, head: WordHead) -> None:
    ordered = replace(head, both={"answer before": 1.0})
    shown = {"a": ("whisk", "spoon"), "b": ("spoon", "whisk"), "c": ("whisk",)}
    for of_both, best in ((ordered, ("a", "b")), (head, ("c", "b"))):
        method, pairs = planted(of_both, world, **shown), [("a", "b"), ("c", "b")]
        scores = method.score("a spoon before a whisk", "Tools/Equipment", pairs)
        assert pairs[int(np.argmax(scores))] == best


def test_answers_about_both_clips_are_learned_and_label_both() -> None:
    tools = ("whisk", "spoon", "fork")
    of_clip = {f"{tool} {number}": f"now the {tool}" for tool in tools for number in range(8)}
    pairs = []
    for number, (one, other) in product(range(8), product(tools, tools)):
        question, answer = "What differs?", f"Video 1 has the {one}, and Video 2 the {other}"
        if one == other:
            question, answer = "What is alike?", f"both of them have the {one}"
        pair = f"{one} {number}", f"{other} {(number + 3) % 8}"
        pairs.append(PairQuestions(*pair, (Turn(question, answer, about="Tools/Equipment"),)))
    wording = learn(of_clip.values(), of_clip, pairs, 3, 100)
    assert is_about_both(wording.both, "What is alike?", "the whisk", wording.narrated)
    assert not is_about_both(
        wording.both, "What differs?", "the whisk, and Video 2 the fork", wording.narrated
    )
    new = PairQuestions("a", "b", (Turn("What is alike?", "both of them have the fork"),))
    signs = wording.signs([new])
    fork = wording.columns["fork"]
    assert signs["a"][fork] == signs["b"][fork] == 1
    differ = learn(
        of_clip.values(), of_clip, [one for one in pairs if "Video" in one.turns[0].answer], 3, 100
    )
    assert not is_about_both(
        differ.both, "What is alike?", "both of them have the whisk", differ.narrated
    )


def test_captions_name_what_differs_and_decline(world: Path, head: WordHead) -> None:
    method = WordEvidence.of_store(head, Store.open(world / "features"))
    clips = [f"video-_{i}_0.0_{i + 1}.5" for i in range(18, 24)]
    differs, agrees = (
        DiffCap(clips[0], clips[place], "Tools/Equipment", ("",)) for place in (1, 3)
    )
    text, none = method.caption([differs, agrees])
    assert text == "In Video 2, a spoon.", "what an answer says"
    no_answers = WordEvidence.of_store(replace(head, sentences={}), Store.open(world / "features"))
    assert no_answers.caption([differs]) == ["In Video 2, spoon, without whisk."]
    assert none == "There is no difference in Tools/Equipment."
    similar = method.rank([DiffRank(clips[0], (clips[1], clips[3]), "Tools/Equipment", (0, 5))])[0]
    assert similar[1] > similar[0]


def test_sentences_are_said_of_the_second_video() -> None:
    tools = ("whisk", "spoon", "fork")
    of_clip = {f"{tool} {number}": f"now the {tool}" for tool in tools for number in range(8)}
    answers = {
        "In Video 1, the {one}, while in Video 2, she has the {other}.": "she has the {other}",
        "Compared to the first video, in the second one she has the {other}": None,
        "In the second video, the {other}, not the {one}.": "the {other}, not the {one}",
        "In Video 2, the {other}, and in Video 1, the {one}.": None,
        "In Video 2, she waits.": None,
    }
    pairs, expected = [], set[str]()
    for number, (text, kept) in enumerate(answers.items()):
        for one, other in permutations(tools, 2):
            turn = Turn("What differs?", text.format(one=one, other=other), about="Tools/Equipment")
            pairs.append(PairQuestions(f"{one} {number}", f"{other} {number}", (turn,)))
            expected |= {kept.format(one=one, other=other)} if kept else set()
    wording = learn(of_clip.values(), of_clip, pairs, 3, 100)
    assert set(wording.sentences["Tools/Equipment"]) == expected and len(wording.sentences) == 1


def test_the_words_of_a_question_come_first(world: Path, head: WordHead) -> None:
    method, question = (
        WordEvidence.of_store(head, Store.open(world / "features")),
        "Which video shows a fork?",
    )
    named = method.asked((clip(18), clip(20)), Turn(question, "")).question
    assert named == f"Video 1: whisk. Video 2: fork. {question}"
    assert method.asked((clip(18), clip(19)), Turn("Why no spoon?", "")).question.startswith(
        "Video 1: whisk. Video 2: spoon"
    )
    assert method.unread("Is the moon made of cheese?") == ["cheese", "made", "moon"]
    for usual in (
        question,
        "Are the whisks on the moon?",
        "What did I do differently in video 2?",
        "How do they differ?",
    ):
        assert method.unread(usual) == []


@pytest.mark.full
@pytest.mark.slow
def test_workers_give_the_same_bits(world: Path, tmp_path: Path) -> None:
    small = with_shards(tmp_path, 22, world)
    assert words.main(command(small, tmp_path / "one")) == 0
    with connected("local", "heads"):
        assert words.main(command(small, tmp_path / "two", "--workers", "2")) == 0
    weights = [WordHead.load(tmp_path / name).about["weights"] for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_moments_are_the_evidence_of_frames(head: WordHead) -> None:
    tokens = np.random.default_rng(0).normal(size=(6, CHANNELS))
    pooled_frames = pool(tokens.reshape(3, 2, CHANNELS))
    for video, model in ((None, 0), ("video 4", 1 + fold_of("video 4", len(head.weights) - 1))):
        frames = [head.weights[model] @ frame + head.bias[model] for frame in pooled_frames]
        expected = frames * head.trust(pool(tokens)[None], [video])
        np.testing.assert_allclose(head.moments(pooled_frames, video), expected, atol=1e-12)


@pytest.fixture(scope="module")
def early(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world whose views `both` and `early` have statistics; the fork is seen in them
    alone."""
    folder = tmp_path_factory.mktemp("early")
    shutil.copytree(world, folder, dirs_exist_ok=True)
    store = Store.open(folder / "features")
    rows, rng = np.arange(24), np.random.default_rng(5)
    tokens = store.view("clips", "visual").read("tokens", rows, dtype="float32")
    tokens[2::3] = tokens[1::3]
    statistics = rng.standard_normal((24, 4, 3), np.float32) + 2 * (rows % 3 == 2)[:, None, None]
    arrays = {"tokens": tokens, "statistics": statistics.astype(np.float32)}
    shapes = {
        "tokens": Feature((TOKENS, CHANNELS), "float16"),
        "statistics": Feature((4, 3), "float32"),
    }
    with store.lock():
        for name, features in (("both", ["tokens", "statistics"]), ("early", ["statistics"])):
            view = store.create_view(
                "clips", name, provenance(name), {each: shapes[each] for each in features}, 8
            )
            view.resize()
            for shard in range(3):
                part = rows[8 * shard : 8 * shard + 8]
                view.write_shard(shard, part, {each: arrays[each][part] for each in features}, {})
    return folder


@pytest.mark.parametrize(("view", "reads"), [("both", ""), ("both", "tokens"), ("early", "")])
def test_statistics_are_read_next_to_tokens_or_alone(
    early: Path, tmp_path: Path, view: str, reads: str
) -> None:
    given = command(early, tmp_path / "head", "--view", view)
    assert words.main([*given, *(["--reads", reads] if reads else [])]) == 0
    head, store = WordHead.load(tmp_path / "head"), Store.open(early / "features")
    clips, parts, features = (
        [clip(place) for place in range(12, 24)],
        [],
        store.view("clips", view).features,
    )
    if view == "both":
        parts.append(pool(store.view("clips", view).read("tokens", keys=clips, dtype="float32")))
    if not reads:
        values = store.view("clips", view).read("statistics", keys=clips).reshape(12, -1)
        parts.append(np.sign(values) * np.sqrt(np.abs(values)))
    method = WordEvidence.of_store(head, store)
    evidence = np.stack(method.evidence(clips))
    np.testing.assert_allclose(evidence, head.evidence(np.concatenate(parts, axis=1)), atol=1e-5)
    if not reads:
        forks = evidence[:, head.columns["fork"]]
        assert forks[2::3].min() > np.delete(forks, np.arange(2, 12, 3)).max()
    (reason,), _ = method.reasons((clips[0], clips[1]), (head.terms[:1], ()))
    assert len(reason.moments) == (8 if "tokens" in features else 1), "statistics have no frames"
    assert reason.evidence == pytest.approx(np.mean(reason.moments), abs=1e-3)


def test_features_that_a_view_lacks_are_not_read(
    early: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = command(early, tmp_path / "head", "--view", "early", "--reads", "tokens")
    refuses(
        words.main, given, capsys, "view early of clips has no feature 'tokens', only statistics"
    )


def test_ask_why_lists_words_and_the_moments_that_give_evidence(
    world: Path, head: WordHead, capsys: Capture
) -> None:
    clips = ["--reference", "video-_18_0.0_19.5", "--candidate", "video-_19_0.0_20.5"]
    given = [*clips, "--store", str(world / "features"), "--words", str(head.folder)]
    assert ask.main([*given, "--why"]) == 0
    known, title, *_ = capsys.readouterr().out.splitlines()
    assert (
        known.startswith("The head knows 12 clips")
        and title == "Video 1: log-odds here against the other video"
    )
    assert ask.main([*given, "--why", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["why"]
    assert first[0]["term"] == "whisk" and second[0]["term"] == "spoon"
    assert (
        first[0]["evidence"] == pytest.approx(np.mean(first[0]["moments"]), abs=1e-3)
        and first[0]["other"] < 0
    )
    best = sorted(np.argsort(first[0]["moments"])[-2:])
    assert first[0]["seconds"] == pytest.approx([5.0 * frame / 7 for frame in best], abs=0.01)
    refuses(ask.main, given, capsys, "error: give one question, or one --preset")
    given[-1] = str(world)
    refuses(
        ask.main,
        [*given, "--why"],
        capsys,
        f"{world}: holds no head of words (words.json is missing)",
    )


# a whisk, then a spoon
SAME = {"reference": "video-_18_0.0_19.5", "candidate": "video-_19_0.0_20.5"}


def looked_for(world: Path, head: WordHead, *more: str) -> list[str]:
    return ["--store", str(world / "features"), "--words", str(head.folder), *more]


def naive(world: Path, head: WordHead, category: str) -> dict[tuple[str, str], float]:
    """Return all pairs that could have the difference of SAME, and how near theirs is."""
    method = WordEvidence.of_store(head, Store.open(world / "features"))
    clips = (
        Store.open(world / "features").catalog("clips").frame(["key", "step", "video"]).to_dicts()
    )
    places, shares = head.of_category(category)
    vectors = [
        np.clip(one[places], -4, 4) * shares**0.5
        for one in method.evidence([clip["key"] for clip in clips])
    ]
    of_key = dict(zip((clip["key"] for clip in clips), vectors, strict=True))
    wanted = of_key[SAME["candidate"]] - of_key[SAME["reference"]]
    near = {}
    for one, other in product(clips, clips):
        if one["step"] == other["step"] and len({one["video"], other["video"], "video 4"}) == 3:
            own = of_key[other["key"]] - of_key[one["key"]]
            length = np.linalg.norm(wanted)
            near[one["key"], other["key"]] = (
                own @ wanted / (max(np.linalg.norm(own), 1e-6) * length**3) ** 0.5
            )
    return near


def test_the_same_difference_is_found_elsewhere(
    world: Path, head: WordHead, capsys: Capture
) -> None:
    given = looked_for(world, head, *(f"--{name}={clip}" for name, clip in SAME.items()))
    assert differences.main([*given, "-k", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["category"] == "Tools/Equipment" and record["words"] == "spoon instead of whisk"
    near = naive(world, head, record["category"])
    found = {(pair["reference"], pair["candidate"]): pair for pair in record["pairs"]}
    assert record["pairs"][0]["score"] == pytest.approx(max(near.values()), abs=1e-4)
    assert len(found) == 4 and len({clip for pair in found for clip in pair}) == 8
    for (one, other), pair in found.items():
        assert (
            pair["score"] == pytest.approx(near[one, other], abs=1e-4)
            and pair["words"] == record["words"]
        )
        assert [int(clip.split("_")[1]) % 3 for clip in (one, other)] == [0, 1]
    sentence = "In Video 1, a spoon, in Video 2, a fork."
    assert differences.main(looked_for(world, head, sentence, "--step", "step 0", "-k", "3")) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("fork instead of spoon: 3 pairs of 12 clips")
    for clips in (line.split()[-6:-4] for line in lines):
        assert [int(clip.split("_")[1]) % 3 for clip in clips] == [1, 2]
    assert differences.main([*given, "--view", "visual", "-k", "1", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert [int(pair[name].split("_")[1]) % 3 for name in SAME] == [0, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give a reference and a candidate, or a sentence"),
        (["--reference", SAME["reference"]], "give a reference and a candidate, or a sentence"),
        (["--reference", "video-_18", "--candidate", SAME["candidate"]], "no clip 'video-_18'"),
        (
            ["--reference", SAME["reference"], "--candidate", SAME["reference"]],
            "no word of Tools/Equipment differs",
        ),
        (
            [f"--{name}={clip}" for name, clip in SAME.items()] + ["--category", "Mood"],
            "category 'Mood': the words of",
        ),
        (["a fork", "--step", "no step"], "no clip of step 'no step'"),
        (["xyzzy"], "no word of 'xyzzy' has evidence; the words of"),
        (["a fork", "--view", "visual"], "a sentence is compared by its words"),
        (["a fork", "--words", "nowhere"], "nowhere: holds no head of words"),
    ],
)
def test_a_difference_that_cannot_be_looked_for(
    world: Path, head: WordHead, capsys: Capture, more: list[str], message: str
) -> None:
    refuses(differences.main, looked_for(world, head, *more), capsys, message)


class Recorded(VideoLM):
    """A model that records the questions of all prompts."""

    questions: list[str]

    def pack(self, prompts: Sequence[Sequence[Turn]], *more: Any, **named: Any) -> Any:
        self.questions += [turn.question for turns in prompts for turn in turns]
        return super().pack(prompts, *more, **named)

    def asked(self, answer: Callable[..., Any], *given: Any) -> list[str]:
        """Return the questions of what a call asks."""
        self.questions = []
        answer(*given)
        return self.questions


@pytest.fixture
def model(tiny_lm: str) -> Recorded:
    lm = LanguageModel.load(tiny_lm)
    projector = Projector(
        ProjectorOptions(16, 1, 2, 4, 4), TOKENS, CHANNELS, lm.width, lm.embedding_std
    )
    recorded = Recorded(lm, projector, 4)
    recorded.questions = []
    return recorded


@pytest.fixture
def method(world: Path, head: WordHead, model: Recorded) -> Callable[..., StepDiff]:
    """Return a StepDiff that never trained, with the head's evidence."""
    store = Store.open(world / "features")
    features = Features(store, "visual", "tokens")

    def loaded(
        own: WordHead | None = head, how: EvidenceOptions | None = None, **more: Any
    ) -> StepDiff:
        words = None if own is None else WordEvidence.of_store(own, store)
        return StepDiff(model, features, Answering(**more), words=words, evidence=how)

    return loaded


def clip(place: int) -> str:
    return f"video-_{place}_0.0_{place + 1}.5"


def test_the_words_of_a_pair_are_before_its_questions(
    world: Path, head: WordHead, method: Callable[..., StepDiff], model: Recorded
) -> None:
    category, both = "Tools/Equipment", (clip(18), clip(19))
    rows: dict[str, list[Any]] = {
        "score_options": read_test_set("diffmcq", world / "diffmcq_test.jsonl"),
        "rank": [DiffRank(clip(18), (clip(19), clip(20)), category, (0, 0))],
        "caption": [DiffCap(*both, category, ("",))],
        "choose": [
            Choice("1", both, "Which?", ("a", "b")),
            Choice("2", both[:1], "Which?", ("a", "b")),
        ],
    }
    with_words = {name: model.asked(getattr(method(), name), own) for name, own in rows.items()}
    assert all(with_words.values())
    assert with_words["caption"][0].startswith("Video 1: whisk. Video 2: spoon. What")
    alone = with_words.pop("choose")
    assert {each for each in alone if not each.startswith("Video 1: ")} == {"Which?"}, (
        "one clip has no other"
    )
    assert all(each.startswith("Video 1: ") for own in with_words.values() for each in own)
    assert method().unread("Is the moon made of cheese?") == ["cheese", "made", "moon"]
    for without in (
        method(None),
        method(control="blind"),
        method(how=EvidenceOptions(asked=False)),
    ):
        assert without.unread("Is the moon made of cheese?") == []
        for name, own in rows.items():
            assert not any(
                each.startswith("Video 1: ") for each in model.asked(getattr(without, name), own)
            ), name
    two = replace(
        head, categories={category: {"whisk": 1.0}, "Vessels": {"spoon": 1.0}}, sentences={}
    )
    (free,) = model.asked(method(two).ask, *both, "Why?", 2)
    assert free == "Video 1: whisk. Video 2: spoon. Why?", "of all categories"
    (free,) = model.asked(method(two).ask, *both, "Which tool?", 2)
    assert free == "Video 1: whisk. Video 2: nothing. Which tool?", "of the category that it names"


@pytest.mark.full
@pytest.mark.parametrize("control", ["none", "shuffled", "blind"])
def test_scores_have_the_evidence_of_the_clips_that_are_shown(
    control: str, world: Path, head: WordHead, method: Callable[..., StepDiff], model: Recorded
) -> None:
    category = "Tools/Equipment"
    with_it, alone = (
        method(how=EvidenceOptions(choice=weight, alike=weight, asked=False), control=control)
        for weight in (3.0, 0.0)
    )
    words = WordEvidence.of_store(head, Store.open(world / "features"))

    def shown(pair: Pair) -> Pair:
        one, other = (with_it.stand_in[each] if control == "shuffled" else each for each in pair)
        return one, other

    ranked = [DiffRank(clip(18), (clip(19), clip(20), clip(21)), category, (0, 0, 5))]
    (scores,), (plain,) = with_it.rank(ranked), alone.rank(ranked)
    pairs = (
        [shown((clip(18), target)) for target in ranked[0].targets] if control != "blind" else []
    )
    below = head.declines_below.get(category, 0.0)
    apart = [words.head.distance(*words.both(pair), category) - below for pair in pairs]
    np.testing.assert_allclose(
        np.subtract(plain, scores), 3 * np.array(apart) if apart else 0, atol=1e-5
    )
    chosen = read_test_set("diffmcq", world / "diffmcq_test.jsonl")
    found, without = with_it.score_options(chosen), alone.score_options(chosen)
    for row, scores, plain in zip(chosen, found, without, strict=True):
        pairs = [shown(pair) for pair in row.options] if control != "blind" else []
        true = words.score(row.difference, row.category, pairs)
        np.testing.assert_allclose(
            np.subtract(scores, plain), 3 * np.array(true) if true else 0, atol=1e-5
        )
    asking = method(control=control)
    questions = set(model.asked(asking.rank, ranked))
    if control == "shuffled":
        pairs = [
            (asking.stand_in[clip(18)], asking.stand_in[target]) for target in ranked[0].targets
        ]
        turn = Turn(SIMILAR_QUESTION.format(category=category), "", about=category)
        assert questions == {words.asked(pair, turn).question for pair in pairs}


SENTENCES = {
    "Tools/Equipment": (
        "the cook uses a spoon",
        "the cook uses a whisk",
        "the cook uses a fork",
    )
}


def test_sentences_are_ordered_by_what_is_true_of_the_pair(world: Path, head: WordHead) -> None:
    """Against the sum over the terms of each sentence, read one by one."""
    category, pair = "Tools/Equipment", (clip(18), clip(19))  # a whisk and a spoon
    words = WordEvidence.of_store(
        replace(head, sentences=SENTENCES), Store.open(world / "features")
    )
    scored = words.sentences(pair, category, 9)
    assert [text for _, text in scored][0] == SENTENCES[category][0] and len(scored) == 3
    places, weights = head.nameable(category)
    first, second = (expit(each[places]) for each in words.both(pair))
    differs = weights * (first * (1 - second) + second * (1 - first))
    for score, text in scored:
        terms = {one.term: one for one in occurrences(f"In Video 2, {text}", head.narrated)}
        says = [
            bool(set(head.terms[place].split()) & set(" ".join(terms).split())) for place in places
        ]
        expected = SAYS * float(differs @ says) + NEW * len(terms)
        for one in terms.values():
            expected += float(words._true([one], *words.both(pair)).sum())
        assert score == pytest.approx(expected, abs=1e-9)
    assert words.sentences(pair, category, 1) == scored[:1]
    assert words.caption([DiffCap(*pair, category, ("",))]) == [f"In Video 2, {scored[0][1]}."]


def test_no_batch_changes_the_sentence_of_a_caption(
    head: WordHead, method: Callable[..., StepDiff]
) -> None:
    category, with_sentences = "Tools/Equipment", replace(head, sentences=SENTENCES)
    rows = [
        DiffCap(clip(18), clip(19), category, ("",)),
        DiffCap(clip(18), clip(20), "Visuals", ("",)),
    ]
    rows.append(DiffCap(clip(20), clip(18), category, ("",)))
    how = EvidenceOptions(asked=False)
    captions = method(with_sentences, how).caption(rows)
    assert captions == [method(with_sentences, how).caption([row])[0] for row in rows]
    assert captions[1] == method(None).caption(rows[1:2])[0], (
        "a category without words has no evidence"
    )
    seed = DIFFCAP_SEED.format(category=category)
    assert captions[0] in [f"{seed} {text}." for text in SENTENCES[category]]
    only_best = method(with_sentences, EvidenceOptions(sentences=1)).caption(rows[:1])
    assert only_best == [f"{seed} {SENTENCES[category][0]}."]
    itself = method(with_sentences, EvidenceOptions(sentences=0)).caption(rows[:1])
    assert itself == method(replace(head, sentences={})).caption(rows[:1]) != only_best, (
        "without sentences it writes"
    )
    declined = method().caption([DiffCap(clip(18), clip(21), category, ("",))])
    assert declined == [NO_DIFFERENCE.format(category=category)], "of the same tool"


@pytest.mark.parametrize(
    ("question", "is_open"),
    [
        ("What did I do differently in video 2?", True),
        ("In one sentence, what mistake did I make in video 2 compared to video 1?", True),
        ("Which of the two videos shows a less sanitary technique and why?", True),
        ("Which video shows a whisk?", False),
        ("What do the two videos have in common?", False),
        ("Do the two videos share a similar main action?", False),
    ],
)
def test_an_open_question_has_a_sentence_for_each_difference(
    head: WordHead, method: Callable[..., StepDiff], question: str, is_open: bool
) -> None:
    answering = method(replace(head, sentences=SENTENCES), EvidenceOptions(sentences=1))
    said: list[str] = []
    answer = answering.ask(clip(18), clip(19), question, 32, said.append)
    assert "".join(said) == answer
    assert (answer == f"In Video 2, {SENTENCES['Tools/Equipment'][0]}.") == is_open
    if is_open:
        assert answering.ask(clip(18), clip(21), question, 32).startswith(
            "There is no difference in "
        )
    assert method().ask(clip(18), clip(19), "Which video shows a whisk?", 8) == "Video 1"
    assert method().ask(clip(19), clip(18), "In which video can one see the whisk?", 8) == "Video 2"
    words = answering.words
    assert (
        words is not None and words.which((clip(18), clip(21)), "Which video shows the moon?") == ""
    )


@pytest.mark.full
def test_training_clips_have_evidence_of_the_other_folds(world: Path, head: WordHead) -> None:
    """The evidence of a term is the regression's prediction up to scale and shift."""
    counting = Counting(options(world, world / "folds"), Store.open(world / "features"))
    counting.run()
    *folds, _ = counting.sums
    words = WordEvidence.of_store(head, Store.open(world / "features"))
    kept = [counting.wording.terms.index(term) for term in head.terms]
    assert not np.allclose(words.evidence([clip(0)])[0], head.evidence(pooled(head, [clip(0)]))[0])
    np.testing.assert_allclose(
        words.evidence([clip(18)])[0], head.evidence(pooled(head, [clip(18)]))[0]
    )
    features = np.random.default_rng(0).standard_normal((50, CHANNELS))
    for place in range(0, 12, 4):
        left_out = fold_of(f"video {place // 4}", len(head.weights) - 1)
        rest = total([one for fold, one in enumerate(folds) if fold != left_out])
        (model,) = fit(rest, [head.about["ridge"]["value"]], counting.features.sizes)
        predictions = features @ model.weights[kept].T
        evidence = head.evidence(features, [f"video {place // 4}"] * 50)
        for term in range(len(kept)):
            assert np.corrcoef(predictions[:, term], evidence[:, term])[0, 1] == pytest.approx(
                1, abs=1e-6
            )
        np.testing.assert_allclose(
            words.evidence([clip(place)])[0],
            head.evidence(pooled(head, [clip(place)]), [f"video {place // 4}"])[0],
            atol=1e-9,
        )


@pytest.mark.full
# of an interrupt before its with block
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ScandirIterator")
def test_a_run_keeps_its_head_of_words_and_resumes_exactly(
    world: Path, head: WordHead, tiny_lm: str, tmp_path: Path, capsys: Capture
) -> None:
    source = shutil.copytree(head.folder, tmp_path / "words")
    # of the first six clips; the head of words was trained on twelve
    pairs = tmp_path / "pairqa.jsonl"
    rows = read_rows(world / "pairqa.jsonl")
    few = {clip(place) for place in range(6)}
    write_rows(pairs, (row for row in rows if {row["reference"], row["candidate"]} <= few))
    more = {"evidence": {"head": str(source)}, "pairqa": str(pairs), "precision": "float32"}
    whole, stopped = (
        recipe(world, tiny_lm, tmp_path / name, **more) for name in ("whole", "stopped")
    )
    assert train.main(["--config", str(whole)]) == 0
    with interrupted_at(tmp_path / "stopped/checkpoint-000002"):
        train.run(read_recipe(stopped))
    shutil.rmtree(source)
    assert train.main(["--config", str(stopped)]) == 0
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole", 6)
    capsys.readouterr()
    given = [
        "--method",
        "video-lm",
        "--head",
        str(tmp_path / "stopped"),
        "--store",
        str(world / "features"),
    ]
    given += ["--task", "diffrank", "--out", str(tmp_path / "ranked.jsonl"), "--test-set"]
    assert evaluate.main([*given, str(world / "diffrank_test.jsonl"), "--json"]) == 0
    disclosed = json.loads(capsys.readouterr().out)["disclosed"]
    weights = {"choice": 1.0, "alike": 8.0, "sentences": 4}
    assert disclosed["recipe"]["evidence"] == {"head": str(source), "asked": True, **weights}
    assert "evidence of words" in disclosed["protocol"]["score"]
    seen = tmp_path / "seen.jsonl"
    seen.write_text((world / "diffrank_test.jsonl").read_text().replace(clip(18), clip(10)))
    # the head of words was
    refuses(evaluate.main, [*given, str(seen)], capsys, "was trained on 1 of its")
    copy = tmp_path / "stopped" / "words"
    record = json.loads((copy / "words.json").read_text())
    (copy / "words.json").write_text(json.dumps(record | {"seconds": 0.0}))
    where = ["--head", str(tmp_path / "stopped"), "--store", str(world / "features")]
    where += ["--reference", clip(18), "--candidate", clip(19), "Why?"]
    for _ in range(2):
        refuses(ask.main, where, capsys, f"{copy}: not the head of words that the run began with")
        shutil.rmtree(copy, ignore_errors=True)
