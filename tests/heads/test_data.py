"""What a training reads: paired QA, sources, hard negatives, batches in the order of their
numbers."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from heads.data.clips import Features, ReadAhead, split_texts
from heads.data.hold_out import HoldOut
from heads.data.packing import NO_TARGET, TEXT, Turn, collate
from heads.data.paired_qa import Order, PairQuestions, kind, read_paired_qa, turns
from heads.data.texts import TextRuns, Texts
from heads.models.language_model import LanguageModel
from heads.models.video_lm import Projector, VideoLM
from heads.training.contrastive_task import PairContrast, contrast_pairs
from heads.training.recipe import PairsContrast, ProjectorOptions, Validation
from heads.training.sources import SEQUENCE, HardNegatives, Sequences, TextedClips
from heads.training.validation import HeldOutPairs, Validator, divide
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import NARRATION_QUESTION
from store import Feature, Provenance, Store

from .conftest import write_rows

OUTPUTS = 4
NARRATED = [
    [("a", "a whisk goes"), ("b", "then a fork"), ("c", "ends")],
    [("d", "we start with a spoon now"), ("e", "stir"), ("f", "and the whisk again")],
]


@pytest.fixture(scope="module")
def model(tiny_lm: str) -> VideoLM:
    lm = LanguageModel.load(tiny_lm)
    torch.manual_seed(1)
    return VideoLM(
        lm,
        Projector(ProjectorOptions(width=16, heads=2, outputs=OUTPUTS), 16, 24, lm.width, 0.5),
        OUTPUTS,
    )


@pytest.fixture(scope="module")
def clips(model: VideoLM) -> torch.Tensor:
    with torch.inference_mode():
        return model.project(torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def store(world: Path) -> Store:
    return Store.open(world / "features")


def narrated(store: Store, column: str = "narration") -> Iterator[pl.DataFrame]:
    return split_texts(store.catalog("clips"), column, Features(store, "visual", "tokens"), "train")


def losses(
    model: VideoLM, runs: list[list[tuple[str, str]]], clips: torch.Tensor
) -> dict[int, list[float]]:
    """Return the losses of the target tokens of each sequence."""
    source = Sequences(runs, model.lm.chat, OUTPUTS, len(runs), 0)
    rows = collate([source.row(place, run) for place, run in enumerate(runs)])
    with torch.inference_mode():
        found, turn = model.token_losses(rows, clips)
    return {int(number): found[turn == number].tolist() for number in turn.unique()}


def test_a_sequence_is_clip_text_clip_text_clip_text(model: VideoLM, clips: torch.Tensor) -> None:
    row = Sequences(NARRATED, model.lm.chat, OUTPUTS, 2, 0).row(1, NARRATED[1])
    shown = [slot for slot in row.video if slot != TEXT]
    assert shown == list(range(SEQUENCE * OUTPUTS, 2 * SEQUENCE * OUTPUTS))
    text = model.lm.chat.tokenizer.decode(
        [0 if v != TEXT else i for i, v in zip(row.ids, row.video, strict=True)]
    )
    video = "<|end|>" * OUTPUTS
    assert text.endswith(
        f"Here is Video 1: {video}. we start with a spoon now. Here is Video 2: {video}. stir. "
        f"Here is Video 3: {video}. and the whisk again"
    )
    learned = model.lm.chat.tokenizer.decode([t for t in row.targets if t != NO_TARGET])
    assert learned == " we start with a spoon now stir and the whisk again"
    assert row.positions == list(range(len(row.ids)))


def test_batched_rows_have_the_losses_of_the_models_own_forward(
    model: VideoLM, clips: torch.Tensor
) -> None:
    both = losses(model, NARRATED, clips)
    for number, run in enumerate(NARRATED):
        own = clips[number * SEQUENCE : (number + 1) * SEQUENCE]
        assert both[number] == pytest.approx(losses(model, [run], own)[0], abs=1e-4)
        row = Sequences([run], model.lm.chat, OUTPUTS, 1, 0).row(0, run)
        batch = collate([row])
        embeddings = model.lm.embed(batch.ids)
        embeddings[batch.video != TEXT] = own.flatten(0, 1)
        with torch.inference_mode():
            log_p = model.lm.model(inputs_embeds=embeddings).logits.log_softmax(-1)[0]
        naive = [
            -float(log_p[i, target]) for i, target in enumerate(row.targets) if target != NO_TARGET
        ]
        assert both[number] == pytest.approx(naive, abs=1e-4)


def test_a_text_is_predicted_from_its_clip_and_what_precedes(
    model: VideoLM, clips: torch.Tensor
) -> None:
    run = NARRATED[0]
    first, second = (len(model.lm.chat.text_ids(f" {text}")) for _, text in run[:2])
    own = losses(model, [run], clips[:3])[0]

    def moved(clip: int) -> np.ndarray:
        other = clips[:3].clone()
        other[clip] = clips[clip + 3]
        return np.abs(np.array(losses(model, [run], other)[0]) - own)

    assert moved(0)[:first].max() > 1e-2 and moved(0)[first:].max() > 1e-2
    assert moved(1)[:first].max() < 1e-5 and moved(1)[first : first + second].max() > 1e-2
    assert moved(2)[: first + second].max() < 1e-5 and moved(2)[first + second :].max() > 1e-2


def test_batched_texted_clips_have_the_losses_of_single_ones(
    model: VideoLM, clips: torch.Tensor
) -> None:
    texts = [("a", "a whisk"), ("b", "one long text about a fork"), ("c", "spoon")]
    source = TextedClips(texts, NARRATION_QUESTION, model.lm.chat, OUTPUTS, 3, 0, "order of clips")
    batch = source.batch(0)
    assert sorted(batch.clips) == list("abc")
    with torch.inference_mode():
        found, turn = model.token_losses(batch.rows, clips[:3])
        for place, key in enumerate(batch.clips):
            alone = source.packer.pack([[Turn(NARRATION_QUESTION, dict(texts)[key])]])
            assert found[turn == place].tolist() == pytest.approx(
                model.token_losses(alone, clips[place : place + 1])[0].tolist(), abs=1e-4
            )


def test_sequences_are_neighbours_in_one_training_video(store: Store) -> None:
    catalog = store.catalog("clips").frame()
    runs = TextRuns(narrated(store), SEQUENCE, 64)
    known = {
        key: (video, end, split)
        for key, video, end, split in catalog["key", "video", "end", "split"].iter_rows()
    }
    assert len(runs) == 3 * 2, "three videos of four clips train"
    for run in runs:
        assert len(run) == SEQUENCE
        videos, ends, splits = zip(*(known[key] for key, _ in run), strict=True)
        assert len(set(videos)) == 1 and set(splits) == {"train"}
        inside = sorted(end for video, end, _ in known.values() if video == videos[0])
        assert list(ends) in [inside[i : i + SEQUENCE] for i in range(2)]


def test_long_texts_are_cut_and_missing_texts_are_refused(store: Store, model: VideoLM) -> None:
    texts = Texts(narrated(store), 2)
    assert {text for _, text in texts} == {"now the"} and len(texts) == 12
    with pytest.raises(StepDiffError, match="no column nothing"):
        list(narrated(store, "nothing"))
    with pytest.raises(StepDiffError, match="no clip of the train split has features and a text"):
        TextedClips(Texts(), NARRATION_QUESTION, model.lm.chat, OUTPUTS, 3, 0, "order of clips")
    with pytest.raises(StepDiffError, match="no video of the train split has 3 clips"):
        Sequences([], model.lm.chat, OUTPUTS, 2, 0)


@pytest.fixture(scope="module")
def negatives(store: Store) -> HardNegatives:
    made = HardNegatives(store.catalog("clips"), Features(store, "visual", "tokens"), 2)
    made.mine(made.embeddings(store, "visual"))
    return made


def test_neighbours_are_the_nearest_training_clips_of_the_step(
    store: Store, negatives: HardNegatives
) -> None:
    train = store.catalog("clips").frame().filter(split="train")
    step = dict(train["key", "step"].iter_rows())
    clips = store.catalog("clips").keys(negatives.rows)
    vectors = dict(
        zip(clips, negatives.embeddings(store, "visual")(np.arange(len(clips))), strict=True)
    )
    assert set(clips) == step.keys()
    for clip, near in zip(clips, negatives.near, strict=True):
        same = [other for other in step if step[other] == step[clip] and other != clip]
        same.sort(key=lambda other: -float(vectors[clip] @ vectors[other]))
        assert [clips[place] for place in near] == same[:2]


def test_only_which_video_questions_get_another_pair(negatives: HardNegatives) -> None:
    clips = negatives.catalog.keys(negatives.rows)
    near = {
        clip: [clips[place] for place in own]
        for clip, own in zip(clips, negatives.near, strict=True)
    }
    a, b = clips[0], clips[7]
    alike, first, second = (
        Turn("Alike?", "NO"),
        Turn("Which video has x?", "Video 1"),
        Turn("Which one?", "Video 2"),
    )
    asked = negatives.with_neighbours([((a, b), [second, alike, first])], np.random.default_rng(0))
    assert asked[0] == ((a, b), [alike])
    assert dict((turns[0], pair[0]) for pair, turns in asked[1:])[first] == a
    assert dict((turns[0], pair[1]) for pair, turns in asked[1:])[second] == b
    for pair, (turn,) in asked[1:]:
        kept, other = pair if turn is first else pair[::-1]
        assert other in near[kept]
    unknown = [(("x", "y"), [first])]
    assert negatives.with_neighbours(unknown, np.random.default_rng(0)) == unknown
    others = [
        negatives.with_neighbours([((a, b), [first])], np.random.default_rng(i))[0][0][1]
        for i in range(20)
    ]
    assert set(others) == set(near[a]), "all neighbours are drawn"


def test_an_epoch_draws_every_pair_once_from_any_step() -> None:
    order = Order(10, 3, "order of pairs")
    both = [i for step in range(10) for i in order.draw(2, step)]
    assert sorted(both[:10]) == sorted(both[10:]) == list(range(10))
    assert order.draw(4, 2) == Order(10, 3, "order of pairs").draw(4, 2) == both[8:12]


def test_every_kind_of_answer_is_drawn() -> None:
    asked = pair(
        "a",
        *["YES"] * 4,
        *["NO"] * 3,
        "Video 1",
        *[f"In Video 2, {word}." for word in ("a", "b", "c")],
    )
    for seed in range(20):
        drawn = turns(asked, 6, np.random.default_rng(seed))
        assert len(set(drawn)) == 6
        assert Counter(kind(turn.answer) for turn in drawn) in (
            Counter(decision=3, video=1, text=2),
            Counter(decision=2, video=1, text=3),
        )
    assert len(turns(asked, 20, np.random.default_rng(0))) == 11
    firsts = {turns(asked, 6, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(firsts) > 5, "questions are drawn at random"


def pair(reference: str, *answers: str) -> PairQuestions:
    return PairQuestions(
        reference, "z", tuple(Turn(f"Question {i}?", answer) for i, answer in enumerate(answers))
    )


A, B, C = (f"video-_{i}_0.0_{i + 1}.5" for i in range(3))  # of the train split
SAID = "now the whisk goes around, number 0"  # has features


def write_qa(path: Path, *said: tuple[str, str, str]) -> str:
    rows = [
        {"reference": a, "candidate": b, "question": "What?", "answer": answer}
        for a, b, answer in said
    ]
    return write_rows(path, rows)


@pytest.fixture
def catalog(world: Path) -> pl.DataFrame:
    return Store.open(world / "features").catalog("clips").frame()


def test_an_answer_that_nothing_differs_is_not_matched_to_a_pair(
    catalog: pl.DataFrame, tmp_path: Path
) -> None:
    path = write_qa(
        tmp_path / "qa.jsonl",
        *(
            (A, B, said)
            for said in (
                "In Video 2, a fork.",
                "There is no difference.",
                "YES",
                "NO",
                "NO",
                "Video 1",
            )
        ),
        (A, C, "There is no difference in the tools."),
        (B, C, "YES"),
    )
    differing, judged = contrast_pairs(read_paired_qa(path, catalog), path)
    assert differing == [((A, B), ("In Video 2, a fork.",))]
    assert judged == [((A, B), 1 / 3), ((B, C), 1.0)]
    with pytest.raises(StepDiffError, match="drop contrastive.pairs"):
        contrast_pairs(
            read_paired_qa(write_qa(tmp_path / "qa.jsonl", (A, B, "YES")), catalog), "qa.jsonl"
        )


def test_a_batch_depends_only_on_seed_and_number(
    world: Path, catalog: pl.DataFrame, tmp_path: Path
) -> None:
    store = Store.open(world / "features")
    said = [(a, b, answer) for a, b in ((A, B), (B, C), (C, A)) for answer in (SAID, "YES", "NO")]
    path = write_qa(tmp_path / "qa.jsonl", *said, (A, C, "YES"))
    options, pairs = PairsContrast(path, pairs=3), read_paired_qa(path, catalog)
    clips, texts = (
        Features(store, "visual", "tokens"),
        Features(store, "words", "embedding", "texts"),
    )
    made = [PairContrast(options, pairs, clips, texts, seed) for seed in (0, 0, 1)]
    first, second = (made[0].batch(number, "cpu") for number in (0, 1))
    again = [made[1].batch(number, "cpu") for number in (1, 0)][::-1]
    for batch, repeated in zip((first, second), again, strict=True):
        assert all(
            a.equal(b) for a, b in zip(vars(batch).values(), vars(repeated).values(), strict=True)
        )
    assert not first.judged.equal(second.judged)
    assert first.differing.shape == (3, 2, 16, 24) and first.alike.shape == (3,)
    others = [made[2].batch(number, "cpu").judged for number in range(4)]
    assert not all(other.equal(first.judged) for other in others)


def test_features_of_a_store_in_an_object_store_are_read_by_key(bucket: str) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": ["a", "b", "c"]}))
    tokens = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    with store.lock():
        provenance = Provenance("net", "0", "l", "f", "c", {})
        view = store.create_view("clips", "net", provenance, {"tokens": Feature((4, 8), "float32")})
        view.write_shard(0, np.array([0, 2]), {"tokens": tokens}, {})
    cached = Features(Store.open(f"{bucket}/features"), "net", "tokens")
    assert np.array_equal(cached.read(["c", "a", "c"]).numpy(), tokens[[1, 0, 1]])
    assert cached.has(["a", "b", "nobody"]).tolist() == [True, False, False]
    with pytest.raises(StepDiffError, match="b is absent in view net"):
        cached.read(["b"])


def test_an_error_of_reading_ahead_is_raised_at_its_batch() -> None:
    def read(number: int) -> int:
        if number == 1:
            raise StepDiffError("a damaged row")
        return number

    ahead = ReadAhead(read, "cpu")
    assert ahead.take(0, 1) == 0
    with pytest.raises(StepDiffError, match="a damaged row"):
        ahead.take(1)


def test_no_clip_that_trains_chooses_the_checkpoint(
    world: Path, store: Store, tmp_path: Path
) -> None:
    files = str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl")
    features, catalog = (
        Features(store, "visual", "tokens"),
        store.catalog("clips").frame().drop("split"),
    )

    def divided(pairqa: Path) -> Validator | HeldOutPairs | None:
        return divide(str(pairqa), Validation(*files, 2), HoldOut(), catalog, 0, features)[1]

    validator = divided(world / "pairqa.jsonl")
    assert isinstance(validator, Validator)
    shared = validator.clips()[0]
    row = {"reference": "video-_0_0.0_1.5", "candidate": shared, "question": "q", "answer": "a"}
    (tmp_path / "leak.jsonl").write_text(json.dumps(row))
    with pytest.raises(
        StepDiffError, match=f"leak.jsonl: 1 training clips are in the val test sets, e.g. {shared}"
    ):
        divided(tmp_path / "leak.jsonl")
