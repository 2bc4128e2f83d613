"""Guarantees of heads.training.sources and heads.training.sources."""

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch

from common.errors import StepDiffError
from heads.data.clips import Features, split_texts
from heads.data.packing import NO_TARGET, TEXT, Turn, collate
from heads.data.runs import Runs
from heads.data.texts import Texts
from heads.models.language_model import LanguageModel
from heads.models.projector import Projector, ProjectorOptions
from heads.models.video_lm import VideoLM
from heads.training import sources
from heads.training.sources import SEQUENCE, HardNegatives, Sequences, TextedClips
from store import Catalog, Store
from tasks.prompts import NARRATION_QUESTION

OUTPUTS = 4
RUNS = [
    [("a", "a whisk goes"), ("b", "then a fork"), ("c", "ends")],
    [("d", "we start with a spoon now"), ("e", "stir"), ("f", "and the whisk again")],
]


@pytest.fixture(scope="module")
def model(tiny_lm: str) -> VideoLM:
    lm = LanguageModel.load(tiny_lm)
    torch.manual_seed(1)
    return VideoLM(lm, Projector(ProjectorOptions(width=16, heads=2, outputs=OUTPUTS), 16, 24, lm.width, 0.5), OUTPUTS)


@pytest.fixture(scope="module")
def clips(model: VideoLM) -> torch.Tensor:
    with torch.inference_mode():
        return model.project(torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def store(world: Path) -> Store:
    return Store.open(world / "features")


def narrated(store: Store, column: str = "narration") -> Iterator[pl.DataFrame]:
    return split_texts(store.catalog("clips"), column, Features(store, "visual", "tokens"), "train")


def losses(model: VideoLM, runs: list[list[tuple[str, str]]], clips: torch.Tensor) -> dict[int, list[float]]:
    """Return the losses of the target tokens of each sequence."""
    source = Sequences(runs, model.lm.chat, OUTPUTS, len(runs), 0)
    rows = collate([source.row(place, run) for place, run in enumerate(runs)])
    with torch.inference_mode():
        found, _, turn = model.token_losses(rows, clips)
    return {int(number): found[turn == number].tolist() for number in turn.unique()}


def test_a_sequence_is_clip_text_clip_text_clip_text(model: VideoLM, clips: torch.Tensor) -> None:
    row = Sequences(RUNS, model.lm.chat, OUTPUTS, 2, 0).row(1, RUNS[1])
    shown = [slot for slot in row.video if slot != TEXT]
    assert shown == list(range(SEQUENCE * OUTPUTS, 2 * SEQUENCE * OUTPUTS))
    text = model.lm.chat.tokenizer.decode([0 if v != TEXT else i for i, v in zip(row.ids, row.video, strict=True)])
    video = "<|end|>" * OUTPUTS
    assert text.endswith(
        f"Here is Video 1: {video}. we start with a spoon now. Here is Video 2: {video}. stir. "
        f"Here is Video 3: {video}. and the whisk again"
    )
    learned = model.lm.chat.tokenizer.decode([t for t in row.targets if t != NO_TARGET])
    assert learned == " we start with a spoon now stir and the whisk again"
    assert row.positions == list(range(len(row.ids)))


def test_batched_rows_have_the_losses_of_single_rows_under_the_models_own_forward(
    model: VideoLM, clips: torch.Tensor
) -> None:
    both = losses(model, RUNS, clips)
    for number, run in enumerate(RUNS):
        own = clips[number * SEQUENCE : (number + 1) * SEQUENCE]
        assert both[number] == pytest.approx(losses(model, [run], own)[0], abs=1e-4)
        row = Sequences([run], model.lm.chat, OUTPUTS, 1, 0).row(0, run)
        batch = collate([row])
        embeddings = model.lm.embed(batch.ids)
        embeddings[batch.video != TEXT] = own.flatten(0, 1)
        with torch.inference_mode():
            log_p = model.lm.model(inputs_embeds=embeddings).logits.log_softmax(-1)[0]
        naive = [-float(log_p[i, target]) for i, target in enumerate(row.targets) if target != NO_TARGET]
        assert both[number] == pytest.approx(naive, abs=1e-4)


def test_a_text_is_predicted_from_its_own_clip_and_what_precedes_it(model: VideoLM, clips: torch.Tensor) -> None:
    run = RUNS[0]
    first, second = (len(model.lm.chat.text_ids(f" {text}")) for _, text in run[:2])
    own = losses(model, [run], clips[:3])[0]

    def moved(clip: int) -> np.ndarray:
        other = clips[:3].clone()
        other[clip] = clips[clip + 3]
        return np.abs(np.array(losses(model, [run], other)[0]) - own)

    assert moved(0)[:first].max() > 1e-2 and moved(0)[first:].max() > 1e-2
    assert moved(1)[:first].max() < 1e-5 and moved(1)[first : first + second].max() > 1e-2
    assert moved(2)[: first + second].max() < 1e-5 and moved(2)[first + second :].max() > 1e-2


def test_batched_clips_with_a_text_have_the_losses_of_single_ones(model: VideoLM, clips: torch.Tensor) -> None:
    texts = [("a", "a whisk"), ("b", "one long text about a fork"), ("c", "spoon")]
    source = TextedClips(texts, NARRATION_QUESTION, model.lm.chat, OUTPUTS, 3, 0, "order of clips")
    batch = source.batch(0)
    assert sorted(batch.clips) == list("abc")
    with torch.inference_mode():
        found, _, turn = model.token_losses(batch.rows, clips[:3])
        for place, key in enumerate(batch.clips):
            alone = source.packer.pack([[Turn(NARRATION_QUESTION, dict(texts)[key])]])
            assert found[turn == place].tolist() == pytest.approx(
                model.token_losses(alone, clips[place : place + 1])[0].tolist(), abs=1e-4
            )


def test_sequences_are_neighbours_of_one_video_by_end_time_and_only_of_the_train_split(store: Store) -> None:
    catalog = store.catalog("clips").frame()
    runs = Runs(narrated(store), SEQUENCE, 64)
    known = {key: (video, end, split) for key, video, end, split in catalog["key", "video", "end", "split"].iter_rows()}
    assert len(runs) == 3 * 2, "three videos of four clips train"
    for run in runs:
        assert len(run) == SEQUENCE
        videos, ends, splits = zip(*(known[key] for key, _ in run), strict=True)
        assert len(set(videos)) == 1 and set(splits) == {"train"}
        inside = sorted(end for video, end, _ in known.values() if video == videos[0])
        assert list(ends) in [inside[i : i + SEQUENCE] for i in range(2)]


def test_an_epoch_draws_every_sequence_once_and_a_batch_depends_on_its_number(store: Store, model: VideoLM) -> None:
    runs = Runs(narrated(store), SEQUENCE, 64)
    source = Sequences(runs, model.lm.chat, OUTPUTS, 2, 3)
    epoch = [source.batch(number).clips for number in range(3)]
    shown = [tuple(clips[i : i + SEQUENCE]) for clips in epoch for i in (0, SEQUENCE)]
    assert sorted(shown) == sorted(tuple(key for key, _ in run) for run in runs)
    assert [Sequences(runs, model.lm.chat, OUTPUTS, 2, 3).batch(number).clips for number in range(3)] == epoch


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


def test_neighbours_are_the_nearest_of_the_same_step_and_the_train_split(
    store: Store, negatives: HardNegatives
) -> None:
    train = store.catalog("clips").frame().filter(split="train")
    step = dict(train["key", "step"].iter_rows())
    clips = store.catalog("clips").keys(negatives.rows)
    vectors = dict(zip(clips, negatives.embeddings(store, "visual")(np.arange(len(clips))), strict=True))
    assert set(clips) == step.keys()
    for clip, near in zip(clips, negatives.near, strict=True):
        same = [other for other in step if step[other] == step[clip] and other != clip]
        same.sort(key=lambda other: -float(vectors[clip] @ vectors[other]))
        assert [clips[place] for place in near] == same[:2]


def test_hard_negatives_without_any_clip_are_refused(store: Store) -> None:
    nothing = Mock(spec=Features, present=lambda clips: clips.clear())
    with pytest.raises(StepDiffError, match="no clip of the train split has features and a step; add them, or drop"):
        HardNegatives(store.catalog("clips"), nothing, 2)


def test_hard_negatives_hold_no_text_and_no_object_per_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    count, channels, neighbours = 20_000, 256, 8
    steps = [f"step {number % 200}" for number in range(count)]
    keys = [f"video{number // 10:08d}_{number}.0_{number}.5" for number in range(count)]
    block = pl.DataFrame({"row": range(count), "key": keys, "split": ["train"] * count, "step": steps})
    monkeypatch.setattr(sources, "blocks", lambda *_: block.iter_slices(5_000))
    monkeypatch.setattr(sources, "need_columns", lambda *_, **__: None)
    vectors = np.random.default_rng(0).standard_normal((count, channels)).astype(np.float32)
    tracemalloc.start()
    try:
        negatives = HardNegatives(Mock(spec=Catalog), Mock(spec=Features, present=lambda clips: clips), neighbours)
        negatives.mine(lambda places: vectors[places])
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < count * (12 + 4 * neighbours) + 200_000
    assert peak < held + vectors.nbytes, "vectors of one step at a time"
    assert (negatives.near >= 0).all() and (negatives.near % 200 == np.arange(count)[:, None] % 200).all()


def test_only_which_video_questions_get_another_pair_and_their_answer_stays_true(negatives: HardNegatives) -> None:
    clips = negatives.catalog.keys(negatives.rows)
    near = {clip: [clips[place] for place in own] for clip, own in zip(clips, negatives.near, strict=True)}
    a, b = clips[0], clips[7]
    alike, first, second = Turn("Alike?", "NO"), Turn("Which video has x?", "Video 1"), Turn("Which one?", "Video 2")
    asked = negatives.with_neighbours([((a, b), [second, alike, first])], np.random.default_rng(0))
    assert asked[0] == ((a, b), [alike])
    assert dict((turns[0], pair[0]) for pair, turns in asked[1:])[first] == a
    assert dict((turns[0], pair[1]) for pair, turns in asked[1:])[second] == b
    for pair, (turn,) in asked[1:]:
        kept, other = pair if turn is first else pair[::-1]
        assert other in near[kept]
    unknown = [(("x", "y"), [first])]
    assert negatives.with_neighbours(unknown, np.random.default_rng(0)) == unknown
    others = [negatives.with_neighbours([((a, b), [first])], np.random.default_rng(i))[0][0][1] for i in range(20)]
    assert set(others) == set(near[a]), "all neighbours are drawn"


def clips_of_videos(rng: np.random.Generator, count: int, keys: Sequence[str]) -> pl.DataFrame:
    """Return clips of which several end at the same time, some at no known time or in no known video."""
    ends = [None if one == 9 else float(one) for one in rng.integers(0, 10, count)]
    videos = [None if one == 7 else f"v{one}" for one in rng.integers(0, 8, count)]
    clips = {"key": keys, "text": [f"text {key}\nü" for key in keys], "video": videos, "end": ends}
    return pl.DataFrame(clips).with_row_index("row", 5).cast({"row": pl.Int64})


def test_runs_are_those_of_a_sorted_table_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for size, sorted_at_once in ((0, 10), (2, 10), (60, 1000), (300, 50), (300, 7)):
        monkeypatch.setattr("heads.data.runs.SORTED", sorted_at_once)
        clips = clips_of_videos(rng, size, [f"k{number}" for number in rng.permutation(size)])
        expected = []
        for video in clips.sort("end", "key").partition_by("video", maintain_order=True):
            own = video.select("key", "text").rows()
            expected += [own[i : i + SEQUENCE] for i in range(len(own) - SEQUENCE + 1)]
        runs = Runs(clips.iter_slices(40), SEQUENCE)
        assert len(runs) == len(expected) and list(runs) == expected
        rows = dict(clips.select("key", "row").iter_rows())
        assert set(runs.rows.tolist()) == {rows[key] for run in expected for key, _ in run}


def test_texts_are_in_temporary_files_and_keep_their_order() -> None:
    blocks = [pl.DataFrame({"row": [n, n + 9], "key": [f"k{n}", f"ü{n}"], "text": ["", "a b\nc"]}) for n in range(3)]
    texts = Texts([*blocks, blocks[0].clear()], words=2)
    assert list(texts) == [(key, text) for n in range(3) for key, text in ((f"k{n}", ""), (f"ü{n}", "a b"))]
    assert texts.rows.tolist() == [0, 9, 1, 10, 2, 11] and texts.key(3) == "ü1"
    assert texts[4:] == [("k2", ""), texts[np.int64(5)]]
    assert isinstance(texts.rows, np.memmap) and list(Texts()) == []
    with pytest.raises(IndexError):
        texts[6]


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)
    monkeypatch.setattr("heads.data.texts.tempfile.TemporaryFile", lambda prefix: full)
    with pytest.raises(StepDiffError, match="texts of clips cannot be written .No space left.*set TMPDIR"):
        Texts([pl.DataFrame({"row": [0], "key": ["a"], "text": ["b"]})])
