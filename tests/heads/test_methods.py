"""Methods and controls against naive ones: cosines, texts of clips, sentences, and controls that
see no text."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from heads import evaluate
from heads.data.clip_texts import ClipTexts, write_texts
from heads.data.packing import Turn
from heads.methods.controls import Chance, Rarest, StepOracle
from heads.methods.similarity import MODEL, CaptionsCosine, Sentences
from heads.methods.socratic import SocraticLM, load_socratic
from heads.methods.vlemb import VLEmb
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.convis import CONCEPTS
from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating
from stepdiff_core.tasks.captions import similarity_rows
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.prompts import SIMILAR_QUESTION
from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank, read_test_set, write_test_set
from stepdiff_core.weights import fingerprint, resolve
from store import Feature, Provenance, Store, text_key
from tests.refusals import refuses

from .conftest import Capture, evaluation

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]


def choices(count: int = 40) -> list[DiffMCQ]:
    random = np.random.default_rng(1)
    rows = []
    for number in range(count):
        options = tuple(
            tuple(str(clip) for clip in random.choice(CLIPS, 2, replace=False)) for _ in range(4)
        )
        rows.append(DiffMCQ(f"text {number}", ("Visuals"), options, options[number % 4]))  # type: ignore[arg-type]
    return rows


def ranks(count: int = 40) -> list[DiffRank]:
    random = np.random.default_rng(2)
    results = [[str(clip) for clip in random.choice(CLIPS, 6, replace=False)] for _ in range(count)]
    return [
        DiffRank(clips[0], tuple(clips[1:]), "Tools/Equipment", (0, 1, 2, 3, 5))
        for clips in results
    ]


def all_differ(scores: list[list[float]]) -> bool:
    return all(len(set(row)) == len(row) for row in scores)


def test_ties_are_broken_by_seed_clips_and_category(world: Path) -> None:
    store = Store.open(world / "features")
    for rows, name in ((choices(), "score_options"), (ranks(), "rank")):
        for kind in (lambda seed: Chance(seed), lambda seed: StepOracle(store, seed)):
            scores = getattr(kind(3), name)(rows)
            assert all_differ(scores), "so every row has an order"
            assert scores == [getattr(kind(3), name)([row])[0] for row in rows], (
                "whatever the batch"
            )
            assert scores != getattr(kind(4), name)(rows)
    scores = Rarest(choices(), 3).score_options(choices())
    assert all_differ(scores) and scores != Rarest(choices(), 4).score_options(choices())
    other = [replace(row, category="Actions") for row in ranks()]
    assert Chance(3).rank(ranks()) != Chance(3).rank(other)


def test_no_control_reads_the_difference_text_of_a_diffmcq_row(world: Path) -> None:
    rows, others = choices(), [replace(row, difference="another text") for row in choices()]
    for method in (Chance(0), Rarest(rows, 0), StepOracle(Store.open(world / "features"), 0)):
        assert method.score_options(rows) == method.score_options(others)


def test_chance_is_uniform_over_options_and_orders() -> None:
    rows = choices(2000)
    chosen = Counter(int(np.argmax(scores)) for scores in Chance(0).score_options(rows))
    assert all(abs(count / 2000 - 0.25) < 0.04 for count in chosen.values())
    first = np.argmax(Chance(0).rank(ranks(2000)), axis=1)
    assert np.allclose(np.bincount(first) / 2000, 0.2, atol=0.04)


def test_the_step_oracle_knows_only_the_step(world: Path) -> None:
    store = Store.open(world / "features")
    steps = dict(zip(*store.catalog("clips").frame()[["key", "step"]], strict=True))
    oracle = StepOracle(store, 0)
    for row, scores in zip(ranks(), oracle.rank(ranks()), strict=True):
        same = [steps[target] == steps[row.reference] for target in row.targets]
        assert [score >= 1 for score in scores] == same and all(0 <= score < 2 for score in scores)
    for one, scores in zip(choices(), oracle.score_options(choices()), strict=True):
        step = steps[one.answer[0]]
        assert [score >= 1 for score in scores] == [
            steps[a] == steps[b] == step for a, b in one.options
        ]


def answers(path: Path) -> list[Any]:
    return [next(iter(json.loads(line).values())) for line in path.read_text().splitlines()]


def test_rarest_counts_clips_among_the_rows_that_are_evaluated(world: Path, tmp_path: Path) -> None:
    write_test_set("diffmcq", tmp_path / "set.jsonl", choices())
    out = tmp_path / "p.jsonl"
    arguments = evaluation(
        world, "diffmcq", "rarest", out, "--test-set", str(tmp_path / "set.jsonl"), "--rows", "25"
    )
    assert evaluate.main(arguments) == 0
    rows = read_test_set("diffmcq", out.with_suffix(".rows.jsonl"))
    every = [clip for row in rows for option in row.options for clip in option]
    for row, scores in zip(rows, answers(out), strict=True):
        assert [int(np.floor(score)) for score in scores] == [
            -every.count(a) - every.count(b) for a, b in row.options
        ]


def written_captions(tmp_path: Path) -> tuple[list[DiffCap], Path]:
    """Return rows of two categories and a file of predictions for them."""
    rows = [
        DiffCap(
            CLIPS[18 + i % 3],
            CLIPS[21 + j],
            ("Visuals", "Actions")[(i + j) % 2],
            (f"text {i} {j}",),
        )
        for i in range(3)
        for j in range(3)
    ]
    write_test_set("diffcap", tmp_path / "said.rows.jsonl", rows)
    replies = [{"generated_text": f"caption {number}"} for number in range(len(rows))]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in replies))
    return rows, tmp_path / "said.jsonl"


def test_shuffled_captions_are_of_other_rows_each_used_once(
    world: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows, replies = written_captions(tmp_path)
    test_set = ("--test-set", str(tmp_path / "said.rows.jsonl"), "--texts", str(replies))
    arguments = evaluation(world, "diffcap", "shuffled-captions", tmp_path / "p.jsonl", *test_set)
    results = []
    for seed in ("0", "1"):
        assert evaluate.main([*arguments, "--seed", seed]) == 0
        results.append([int(text.split()[1]) for text in answers(tmp_path / "p.jsonl")])
        assert sorted(results[-1]) == list(range(len(rows)))
        for own, other in enumerate(results[-1]):
            assert own != other and rows[own].category == rows[other].category
    assert results[0] != results[1]
    arguments += ["--test-set", str(tmp_path / "set.jsonl")]
    for others, message in (
        (rows[:1], "Visuals: only one pair of clips, so no caption of another"),
        (
            [*rows, replace(rows[0], candidate=CLIPS[20])],
            f"for 1 of 10 rows, e.g. {CLIPS[18]} and {CLIPS[20]}",
        ),
    ):
        write_test_set("diffcap", tmp_path / "set.jsonl", others)
        refuses(evaluate.main, arguments, capsys, message)


def f1(one: str, other: str) -> float:
    common = sum((Counter(one.split()) & Counter(other.split())).values())
    return 2 * common / (len(one.split()) + len(other.split()))


@pytest.mark.full
def test_medoid_answers_one_open_answer_a_category(world: Path, tmp_path: Path) -> None:
    arguments = evaluation(
        world, "diffcap", "medoid", tmp_path / "p.jsonl", "--texts", str(world / "pairqa.jsonl")
    )
    (row,) = read_test_set("diffcap", world / "diffcap_test.jsonl")
    write_test_set("diffcap", tmp_path / "set.jsonl", [replace(row, category="Tools/Equipment")])
    assert evaluate.main([*arguments, "--test-set", str(tmp_path / "set.jsonl")]) == 0
    questions = [json.loads(line) for line in (world / "pairqa.jsonl").read_text().splitlines()]
    texts = [
        parse(q["answer"])
        for q in questions
        if q["answer"] not in ("YES", "NO", "Video 1", "Video 2")
    ]
    means = {text: sum(f1(text, other) for other in texts) for text in texts}
    (replies,) = answers(tmp_path / "p.jsonl")
    assert means[replies] == pytest.approx(max(means.values()), rel=1e-5)


@pytest.fixture
def similar(world: Path, tmp_path: Path) -> Path:
    """Paired QA of training clips with the question of DiffRank in category Visuals."""
    lines = (world / "pairqa.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if json.loads(line)["type"] == 3]
    for row in rows:
        row["question"] = SIMILAR_QUESTION.format(category="Visuals")
    path = tmp_path / "similar.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_medoid_reads_no_clip_of_the_tests_videos(
    world: Path, tmp_path: Path, similar: Path, capsys: Capture
) -> None:
    for clip in (CLIPS[18], CLIPS[12]):
        row = json.loads(similar.read_text().splitlines()[0]) | {"candidate": clip}
        row |= {"answer": "a spoon", "category": "Visuals"}
        leaking = tmp_path / "leaking.jsonl"
        leaking.write_text(similar.read_text() + json.dumps(row) + "\n")
        arguments = evaluation(
            world, "diffcap", "medoid", tmp_path / "p.jsonl", "--texts", str(leaking)
        )
        assert evaluate.main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert re.search(
            f"1 clips are (of the test set's videos|not of split train).* {clip}", error
        )
        assert "\n" not in error
    write_test_set(
        "diffcap",
        tmp_path / "of_val.jsonl",
        [DiffCap(CLIPS[12], CLIPS[13], "Tools/Equipment", ("",))],
    )
    agreeing = tmp_path / "agreeing.jsonl"
    write_test_set("diffrank", agreeing, [DiffRank(CLIPS[0], (CLIPS[1],), "Tools/Equipment", (5,))])
    arguments = evaluation(
        world, "diffcap", "medoid", tmp_path / "p.jsonl", "--texts", str(world / "pairqa.jsonl")
    )
    arguments += ["--test-set", str(tmp_path / "of_val.jsonl"), "--no-difference", str(agreeing)]
    refuses(evaluate.main, arguments, capsys, "4 clips are of the test set's videos")


def test_paired_qa_without_open_answers_is_refused(
    world: Path, tmp_path: Path, similar: Path, capsys: Capture
) -> None:
    questions, head = str(world / "pairqa.jsonl"), ["--head", "runs/x"]
    cases = [
        (["diffcap", "medoid"], ["--texts", str(similar)], "no open answers about Visuals"),
        (["diffcap", "medoid"], [], "needs --texts, paired QA of training clips"),
        (["diffcap", "shuffled-captions"], [], "needs --texts, the predictions of another method"),
        (
            ["diffrank", "random"],
            ["--texts", questions],
            "--texts is for socratic, captions-.* and random does not",
        ),
        (["diffmcq", "rarest"], head, "--head is for video-lm, stepdiff, .*, and rarest does not"),
        (
            ["diffrank", "medoid"],
            ["--texts", questions],
            "medoid does not answer diffrank: its class has no",
        ),
    ]
    capsys.readouterr()
    for (task, method), more, message in cases:
        assert evaluate.main(evaluation(world, task, method, tmp_path / "p.jsonl", *more)) == 2
        error = capsys.readouterr().err.strip()
        assert re.search(message, error) and "\n" not in error, error
    assert not (tmp_path / "p.jsonl").exists()


EIGHT = [f"video_{i}_0.0_1.0" for i in range(8)]
TEXT = "with a whisk"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Eight clips and one text in a space of six dimensions; no embedding has length 1."""
    filled = Store.open(tmp_path / "features", create=True)
    rng = np.random.default_rng(0)
    rows = {
        "clips": pl.DataFrame({"key": EIGHT}),
        "texts": pl.DataFrame({"key": [text_key(TEXT)], "text": [TEXT]}),
    }
    with filled.lock():
        for entity, frame in rows.items():
            filled.catalog(entity).append(frame)
            provenance = Provenance(
                "both", "0" * 64, "last", "8 linspace", "none", {"embedding": "float32"}
            )
            view = filled.create_view(
                entity, "both", provenance, {"embedding": Feature((6,), "float32")}
            )
            view.resize()
            vectors = rng.standard_normal((len(frame), 6)).astype(np.float32) * 3
            view.write_shard(0, np.arange(len(frame)), {"embedding": vectors}, {})
    return filled


QUESTION = DiffMCQ(
    TEXT, "Tools/Equipment", tuple(zip(EIGHT[::2], EIGHT[1::2], strict=True)), (EIGHT[0], EIGHT[1])
)


@pytest.mark.parametrize("pair", ["average", "reference", "candidate"])
def test_a_pair_is_embedded_as_its_average_or_one_clip(
    store: Store, tmp_path: Path, pair: str
) -> None:
    def unit(entity: str, key: str) -> np.ndarray:
        vector = store.view(entity, "both").read(
            "embedding", store.catalog(entity).rows([key]), dtype="float32"
        )[0]
        return vector / np.linalg.norm(vector)

    text = unit("texts", text_key(TEXT))
    expected = []
    for reference, candidate in QUESTION.options:
        ends = unit("clips", reference), unit("clips", candidate)
        shown = {"average": (ends[0] + ends[1]) / 2, "reference": ends[0], "candidate": ends[1]}[
            pair
        ]
        expected.append(float(shown @ text / np.linalg.norm(shown)))
    out = tmp_path / "out.jsonl"
    write_test_set("diffmcq", tmp_path / "mcq.jsonl", [QUESTION])
    command = [
        "--task",
        "diffmcq",
        "--method",
        "vlemb",
        "--view",
        "both",
        "--store",
        str(store.path),
    ]
    command += [
        "--test-set",
        str(tmp_path / "mcq.jsonl"),
        "--out",
        str(out),
        "--pair-embedding",
        pair,
    ]
    assert evaluate.main(command) == 0
    assert json.loads(out.read_text())["scores"] == pytest.approx(expected, rel=1e-5)
    disclosed = json.loads(out.with_suffix(".scores.json").read_text())["disclosed"]
    assert disclosed == {"view": "both", "encoder": "both", "pair_embedding": pair}


def test_an_absent_text_is_reported_or_counted_at_once(
    store: Store, tmp_path: Path, capsys: Capture
) -> None:
    test_set, out = tmp_path / "mcq.jsonl", tmp_path / "out.jsonl"
    rows = [QUESTION, replace(QUESTION, difference="with a fork")]
    write_test_set("diffmcq", test_set, rows)
    command = [
        "--task",
        "diffmcq",
        "--method",
        "vlemb",
        "--view",
        "both",
        "--store",
        str(store.path),
        "--json",
    ]
    command += ["--test-set", str(test_set), "--out", str(out), "--bootstrap", "5"]
    refuses(
        evaluate.main,
        command,
        capsys,
        "error: 'with a fork': no embedding of this text in view both",
    )
    assert not out.exists()
    assert evaluate.main([*command, "--skip-missing"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["skipped"] == {"clips": 0, "rows": 1} and record["scores"]["rows"] == 1
    write_test_set("diffmcq", test_set, rows[1:])
    refuses(
        evaluate.main, [*command, "--skip-missing"], capsys, "has no embedding of any row's text"
    )


def test_a_text_is_compared_with_options_that_are_clips(store: Store) -> None:
    row = Choice(
        "0", (EIGHT[0], EIGHT[3], EIGHT[5]), "Of which is it truer?", ("1", "2", "3"), TEXT
    )
    method = VLEmb.of_view(store, "both")
    text = method.score_options(
        [
            replace(
                QUESTION,
                options=tuple((clip, clip) for clip in row.clips),
                answer=(EIGHT[0], EIGHT[0]),
            )
        ]
    )
    assert method.choose([row])[0] == pytest.approx(text[0], abs=1e-6)
    with pytest.raises(StepDiffError, match="the options of this task are not clips"):
        method.choose([replace(row, about=None)])
    assert method.missing_texts(
        [row, replace(row, about="of another tool"), replace(row, about=None)]
    ) == ["of another tool"]


DATA = Path(__file__).parents[3] / "shared/data/convis"
CAPTIONS = DATA / "captions_mPLUG-Owl3-7B.json"
LETTERED = {"1_0": "a b", "2_0": " a b \n", "3_0": "b", "4_0": "c"}


def test_published_texts_have_the_kind_text_and_no_provenance(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(LETTERED))
    (tmp_path / "captions").mkdir()
    for clip, text in LETTERED.items():
        (tmp_path / "captions" / f"{clip}.txt").write_text(text, encoding="utf-8-sig")
    for name in ("captions.json", "captions"):
        texts = ClipTexts(tmp_path / name)
        assert (texts.texts, texts.kind, texts.provenance) == (LETTERED, "text", [])


def test_equal_texts_have_cosine_1_and_absent_ones_are_named(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.parquet", "caption", LETTERED, {"model": "m"})
    method = CaptionsCosine(ClipTexts(tmp_path / "texts.parquet"))
    method.sentences = as_words  # type: ignore[assignment]
    rows = [
        Rating("1", ("1_0", "2_0"), "location"),
        Rating("2", ("1_0", "3_0"), "location"),
        Ranking("3", "4_0", ("1_0", "4_0"), "location"),
        DiffRank("3_0", ("1_0", "4_0"), "Visuals", (5, 0)),
    ]
    scores = method.rank(rows)
    half = np.sqrt(0.5)
    assert [list(map(float, row)) for row in scores] == [
        pytest.approx(row, abs=1e-6) for row in ([1], [half], [0, 1], [half, 0])
    ]
    with pytest.raises(StepDiffError, match="9_0: no text of kind 'caption'"):
        method.rank([Rating("1", ("1_0", "9_0"), "location")])


@pytest.mark.full
def test_published_captions_have_the_baselines_figures() -> None:
    if not CAPTIONS.is_file():
        pytest.skip("the captions of ConViS-Bench are not here")
    try:
        resolve("minilm-l6")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    benchmark = registry.get("convis")
    asked = benchmark.read(DATA)
    scores = CaptionsCosine(ClipTexts(CAPTIONS)).rank(asked.rows)
    result = benchmark.score(asked.rows, scores, asked.truth, 0, 0)
    (row,) = [row for row in benchmark.published if row.method == "SBERT, mPLUG-Owl3-7B"]
    assert {name: round(result[name], 1) for name in row.figures} == row.figures
    assert [row.figures[f"rho {concept.name}"] for concept in CONCEPTS] == [
        52.1,
        45.5,
        55.1,
        28.4,
        49.9,
    ]


SAID = {
    "a_0_1": "A hand whisks eggs with a fork.",
    "b_0_1": "Eggs.",
    "c_0_1": "Someone beats cream in a glass bowl.",
}
TURNS = [Turn("What differs?", "a fork", "In Video 2,", ends=False), Turn("The same?", "NO")]


def write(path: Path, texts: dict[str, str], *more: tuple[str, str, str, str]) -> Path:
    rows = [
        (key, "step description", text, '{"model": "a"}') for key, text in texts.items()
    ] + list(more)
    columns = ["key", "kind", "text", "provenance"]
    path.write_bytes(
        table.encode(pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row"))
    )
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("said") / "texts.parquet", SAID)


def clips(model: SocraticLM, ids: object, *keys: str) -> torch.Tensor:
    return model.project(ids.read(list(keys)))  # type: ignore[attr-defined]


def test_the_prompt_has_texts_in_the_places_of_clips(texts: Path, tiny_lm: str) -> None:
    model, ids, disclosed = load_socratic(str(texts), None, tiny_lm)
    batch, _ = model.pack([TURNS[:1]], clips(model, ids, "a_0_1", "b_0_1"), True)
    written = model.lm.chat.tokenizer.decode(batch.ids[0])  # unused placeholders are removed
    assert (
        batch.positions[0].tolist() == list(range(batch.ids.shape[1]))
        and (batch.segment >= 0).all()
    )
    seen = model.lm.chat.tokenizer.decode(model.pack([TURNS[:1]], None, True)[0].ids[0])
    assert written.replace(SAID["a_0_1"], "").replace(SAID["b_0_1"], "") == seen
    assert f"Video 1: {SAID['a_0_1']}. Here is Video 2: {SAID['b_0_1']}." in written
    assert disclosed["provenance"] == ['{"model": "a"}'] and disclosed["kind"] == "step description"


def test_scores_equal_those_of_the_plain_text(texts: Path, tiny_lm: str) -> None:
    """Scores packed in a batch with prefixes of other lengths equal the language model's own
    forward."""
    model, ids, _ = load_socratic(str(texts), None, tiny_lm)
    pairs = [("a_0_1", "b_0_1"), ("c_0_1", "a_0_1")]
    packed = model.log_likelihoods([TURNS, TURNS], clips(model, ids, *sum(pairs, ())), mean=False)
    chat = model.lm.chat
    for pair, scores in zip(pairs, packed, strict=True):
        system = (
            "You are a multimodal assistant. Designed to provide direct answers to users' video "
            f"related questions. Here is Video 1: {SAID[pair[0]]}. Here is Video 2: "
            f"{SAID[pair[1]]}."
        )
        for turn, value in zip(TURNS, scores, strict=True):
            asked = [
                {"role": "system", "content": system},
                {"role": "user", "content": turn.question},
            ]
            prompt = (
                chat.tokenizer.apply_chat_template(
                    asked, tokenize=False, add_generation_prompt=True
                )
                + turn.seed
            )
            answer = f" {turn.answer}" if turn.seed else turn.answer + "<|im_end|>"
            first, rest = (chat.control_ids(text) for text in (prompt, answer))
            with torch.inference_mode():
                log_p = (
                    model.lm.model(input_ids=torch.tensor([first + rest])).logits[0].log_softmax(-1)
                )
            naive = sum(float(log_p[len(first) - 1 + i, token]) for i, token in enumerate(rest))
            assert value == pytest.approx(naive, abs=1e-4)


def test_an_invalid_file_of_texts_is_refused(texts: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "more.parquet", SAID, ("a_0_1", "llava", "A fork.", "{}"))
    assert list(ClipTexts(path, "llava").items()) == [("a_0_1", "A fork.")]

    def refused(path: Path, message: str, kind: str | None = None) -> None:
        with pytest.raises(StepDiffError, match=message):
            ClipTexts(path, kind)

    refused(path, "several kinds of text; give --kind, one of 'llava', 'step description'")
    refused(path, "holds no texts of kind 'blip2'; give --kind", "blip2")
    refused(
        write(path, SAID, ("a_0_1", "step description", "A fork.", "{}")),
        "two texts of kind .* for a_0_1; keep one",
    )
    path.write_bytes(table.encode(pl.DataFrame({"key": ["a"], "kind": ["b"], "text": ["c"]})))
    refused(path, "its column provenance is missing or not of strings")
    path.write_bytes(texts.read_bytes()[:-9] + b"123456789")
    refused(path, "is not as it was written")
    (tmp_path / "captions.json").write_text('{"a": 1}')
    refused(tmp_path / "captions.json", "captions.json: not one object")
    refused(tmp_path / "nothing.json", "nothing.json: cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no Parquet file of texts and no CLIP.txt")


@pytest.mark.full
def test_evaluate_runs_three_tasks_and_names_the_precision(
    world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    catalog = Store.open(world / "features").catalog("clips").frame()
    path = write(
        tmp_path / "said.parquet", dict(zip(catalog["key"], catalog["narration"], strict=True))
    )
    written = {}
    for task, precision in (
        ("diffmcq", "float32"),
        ("diffmcq", "bfloat16"),
        ("diffrank", "auto"),
        ("diffcap", "auto"),
    ):
        out = tmp_path / f"{task}.jsonl"
        more = [
            "--texts",
            str(path),
            "--language-model",
            tiny_lm,
            "--device",
            "cpu",
            "--precision",
            precision,
        ]
        assert evaluate.main(evaluation(world, task, "socratic", out, *more)) == 0
        disclosed = json.loads(out.with_suffix(".scores.json").read_text())["disclosed"]
        assert disclosed["kind"] == "step description"
        assert precision in ("auto", disclosed["protocol"]["precision"])
        written[task, precision] = [
            next(iter(json.loads(line).values())) for line in out.read_text().splitlines()
        ]
    apart = np.subtract(written["diffmcq", "float32"], written["diffmcq", "bfloat16"])
    assert 0 < np.abs(apart).max() < 0.05 and all(written["diffcap", "auto"])


SENTENCES = [
    "the cook stirs slowly",
    "the cook whisks",
    "a red bowl",
    "so much more salt goes into the pan",
]


@pytest.fixture(scope="module")
def tiny_mpnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that sentence-transformers loads: a random MPNet of one layer with the words of
    SENTENCES."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MPNetConfig, MPNetModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_mpnet")
    words = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        *sorted({word for text in SENTENCES for word in text.split()}),
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
    )
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    MPNetModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def as_words(texts: Sequence[str]) -> np.ndarray:
    """Return normalised counts of a, b, c and d in each text."""
    counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_a_row_scores_its_highest_cosine_and_no_word_scores_0() -> None:
    references = [["a b", "c"], ["d"], ["a", "b"], ["a", "b"], [""]]
    similarities = similarity_rows(references, ["c c", "a", "a a b", "", "\n"], as_words)
    np.testing.assert_allclose(similarities, [1, 0, 2 / np.sqrt(5), 0, 0], rtol=1e-6)


def filled(folder: Path, texts: list[str], vectors: np.ndarray, weights: str) -> Store:
    store = Store.open(folder, create=True)
    provenance = Provenance(MODEL, weights, "mean", "none", "none", {"embedding": "float32"})
    with store.lock():
        store.catalog("texts").append(
            pl.DataFrame({"key": [text_key(text) for text in texts], "text": texts})
        )
        view = store.create_view(
            "texts", MODEL, provenance, {"embedding": Feature((vectors.shape[1],), "float32")}
        )
        view.resize()
        view.write_shard(0, np.arange(len(texts)), {"embedding": vectors}, {})
    return store


def test_stored_embeddings_are_read_and_others_computed(tiny_mpnet: str, tmp_path: Path) -> None:
    computed = Sentences(model=tiny_mpnet)(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(computed, axis=1), 1, rtol=1e-5)
    planted = np.eye(16, dtype=np.float32)[:2]
    store = filled(
        tmp_path / "features",
        [SENTENCES[2], SENTENCES[0]],
        planted,
        fingerprint(resolve(tiny_mpnet)),
    )
    embedded = Sentences(store, model=tiny_mpnet)(SENTENCES)
    np.testing.assert_array_equal(embedded[[2, 0]], planted)
    np.testing.assert_allclose(embedded[[1, 3]], computed[[1, 3]], atol=1e-5)
    # no embedding is missing, so that no model is loaded
    only = Sentences(store, model="nowhere/none")([SENTENCES[0]])
    np.testing.assert_array_equal(only, planted[1:])


def test_embeddings_of_other_weights_are_refused(tiny_mpnet: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "features", SENTENCES[:1], np.eye(16, dtype=np.float32)[:1], "0" * 64)
    with pytest.raises(
        StepDiffError,
        match="features: mpnet-base of texts was made with other weights than .*tiny_mpnet",
    ):
        Sentences(store, model=tiny_mpnet)(SENTENCES)
    assert len(Sentences(store, model=tiny_mpnet)(SENTENCES[1:])) == 3


def test_only_diffcap_has_the_metric_mpnet() -> None:
    rows = [
        DiffCap("a_0_1", "b_0_1", "Visuals", ("a b", "c")),
        DiffCap("c_0_1", "b_0_1", "Visuals", ()),
    ]
    scores = score("diffcap", rows, ["a", "d"], bootstrap=0, embed=as_words)
    assert scores["MPNet"] == pytest.approx(1 / np.sqrt(2))
    assert "MPNet" not in score("diffcap", rows, ["a", "d"], bootstrap=0)
    with pytest.raises(StepDiffError, match="diffrank has no captions"):
        score("diffrank", [DiffRank("a_0_1", ("b_0_1",), "Visuals", (5,))], [[1.0]], embed=as_words)
