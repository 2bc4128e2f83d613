"""Training of video language models from cached tokens: one task for VCLM, Interleaved and StepDiff.

Batch b is of source b modulo the number of sources, as the supplement's S3 samples its data sets.

`Comparing` adds a question at every token of a clip that follows another clip: does it say the same word as that
clip's token at the same place? To answer "Do the two videos share a similar ...?" a model has to find where the clips
agree, and one answer per question teaches that late. A token says the word of the language model's vocabulary whose
embedding is nearest; no label is needed, and no token is added to the row.

Guarantees
- only the projector changes, and of the language model what the recipe trains: nothing, LoRA, or all
- the source of a batch depends only on the batch's number
- validation reads the val test sets of the recipe, or answers about clips that are held out, on rows drawn by seed
- no_clip_of_a_video_that_is_held_out_for_validation_trains
- a clip without features is reported before anything trains
- no source draws a clip that is held out: clips, sequences, images, pairs, the warm start, hard negatives
- only tokens of clips after another clip of their row get the question; the row's other targets do not change
- YES and NO have the same total weight in every batch
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from common.errors import StepDiffError
from common.streams import generator, torch_seed
from heads.data.clips import Features, split_texts
from heads.data.hold_out import HoldOut
from heads.data.packing import NO_TARGET, PADDING, Chat, Packed
from heads.data.paired_qa import PairQuestions, read_divided
from heads.data.trained_on import TrainedOn
from heads.methods.stepdiff import StepDiff
from heads.models.language_model import LanguageModel, autocast, pick_precision
from heads.models.projector import Comparison, Projector
from heads.models.video_lm import VideoLM, follows
from heads.training.checkpoint import Run
from heads.training.loop import step_lines
from heads.training.recipe import Validation, VideoLMRecipe, WarmStart
from heads.training.sources import (
    Batch,
    HardNegatives,
    PairedSource,
    Sequences,
    Source,
    TextedClips,
    narrated,
    sequences,
)
from heads.training.speed import Counts
from heads.training.validation import HeldOutPairs, clips_to_hold_out, need_rows, validator_of
from heads.training.warm_start import warm_start
from store import Store
from tasks.prompts import CAPTION_QUESTION, NARRATION_QUESTION, NO, YES
from tasks.testsets import drawn


class Comparing:
    """Adds the questions to the clips of a batch. weight: average weight of such a token; an answer's token has 1."""

    def __init__(self, lm: LanguageModel, weight: float) -> None:
        self.weight, self.answers = weight, answer_ids(lm.chat)
        self.embeddings: Tensor = lm.model.get_input_embeddings().weight
        self.held: tuple[Tensor, Tensor] | None = None

    def ask(self, rows: Packed, clips: Float[Tensor, "C L E"]) -> Packed:
        return with_comparisons(rows, self.nearest_words(clips), self.answers, self.weight)

    @torch.no_grad()
    def nearest_words(self, tokens: Float[Tensor, "C L E"]) -> Int[Tensor, "C L"]:
        """Return the nearest word of the vocabulary for each token of clips."""
        table, device = self.embeddings, self.embeddings.device.type
        if self.held is None or table.requires_grad:  # frozen embeddings are cast once
            product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
            self.held = table.to(product), (table.float().square().sum(dim=1) / -2).to(product)
        return functional.linear(tokens, *self.held).argmax(dim=-1)


def answer_ids(chat: Chat) -> tuple[int, int]:
    """Return the first tokens in which YES and NO differ."""
    both = zip(chat.text_ids(YES), chat.text_ids(NO), strict=False)
    return next((yes, no) for yes, no in both if yes != no)


def with_comparisons(rows: Packed, words: Int[Tensor, "C L"], answers: tuple[int, int], weight: float) -> Packed:
    """Return the rows with the questions at their clips' tokens.

    words: of each clip, as the rows number them; answers: ids of YES and NO; weight: average weight of such a token.
    """
    clip, place = rows.video // words.shape[1], rows.video % words.shape[1]
    compared = follows(rows.video, words.shape[1]) & (rows.targets == NO_TARGET)
    clip, place = clip[compared], place[compared]
    same = words[clip, place] == words[clip - 1, place]
    yes, no = answers
    share = torch.where(same, same.float().mean(), (~same).float().mean())
    targets, weights = rows.targets.clone(), rows.weights.clone()
    targets[compared] = torch.where(same, yes, no)
    weights[compared] = weight / (2 * share)
    return replace(rows, targets=targets, weights=weights)


CLIPS_MINED = 32  # projected at a time


def build(recipe: VideoLMRecipe, features: Features, seed: int, device: str) -> VideoLM:
    """Return the untrained model of a recipe; the same seed gives the same weights."""
    precision = pick_precision(device, recipe.precision)
    lm = LanguageModel.load(recipe.language_model, device, exact=recipe.full or precision == "float32")
    if recipe.lora is not None:
        lm.add_lora(recipe.lora, seed)
    if recipe.full:
        lm.train_all()
    if precision == "bfloat16":
        lm.hold_frozen(torch.bfloat16)
    if recipe.gradient_checkpointing:
        lm.recompute_layers()
    torch.manual_seed(torch_seed(seed, "projector weights"))
    tokens, channels = features.shape
    projector = Projector(recipe.projector, tokens, channels, lm.width, lm.embedding_std).to(device)
    comparison = Comparison(lm.width, lm.embedding_std).to(device) if recipe.compare_tokens else None
    return VideoLM(lm, projector, recipe.projector.outputs, comparison)


def comparing(recipe: VideoLMRecipe, model: VideoLM) -> Comparing | None:
    """Return the additional questions of a recipe; None if it has none."""
    return Comparing(model.lm, recipe.compare_weight) if recipe.compare_weight else None


def answer_loss(
    model: VideoLM, rows: Packed, tokens: Float[Tensor, "C N D"], comparing: Comparing | None = None
) -> Float[Tensor, ""]:
    """Return the mean loss over the answer tokens of a batch, weighted by turn; tokens: of the rows' clips."""
    rows, clips = rows.to(model.lm.device), model.project(tokens)
    if comparing is not None:
        rows = comparing.ask(rows, clips)
    losses, weights, _ = model.token_losses(rows, clips)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def mean_loss(model: VideoLM, features: Features, batches: Iterable[Batch]) -> float:
    """Return the mean loss over the answer tokens of some batches, weighted by turn."""
    total = weight = 0.0
    for batch in batches:
        tokens = features.read(batch.clips, model.lm.device)
        losses, weights, _ = model.token_losses(batch.rows.to(model.lm.device), model.project(tokens))
        total += float((losses * weights).sum())
        weight += float(weights.sum())
    return total / weight


class VideoTask:
    def __init__(
        self, recipe: VideoLMRecipe, store: Store, seed: int, device: str, hold_out: HoldOut | None = None
    ) -> None:
        """hold_out: the test sets whose clips never train; the clips that validate are added to it."""
        recipe.check()
        self.counts = Counts()
        self.hold_out = hold_out or HoldOut()
        self.recipe, self.store, self.seed, self.device = recipe, store, seed, device
        self.catalog = store.catalog("clips").frame()
        self.hold_out.look_up(self.catalog, clips_to_hold_out(recipe.validation, self.catalog, seed))
        self.features = Features(store, recipe.view, "tokens")
        self.pairs: list[PairQuestions] = []
        held_pairs: list[PairQuestions] = []
        if recipe.pairqa is not None:
            self.pairs, held_pairs = read_divided(recipe.pairqa, self.catalog, self.hold_out)
        self.validator = validator_of(recipe.validation, seed)
        self.held_pairs: HeldOutPairs | None = None
        if (options := recipe.validation) is not None and options.share is not None and "pairs" in recipe.sources:
            self.held_pairs = HeldOutPairs(options, held_pairs, self.catalog, seed)
        self.negatives: HardNegatives | None = None
        if recipe.hard_negatives is not None:
            neighbours = recipe.hard_negatives.neighbours
            self.negatives = HardNegatives(self.catalog, self.features, neighbours, self.hold_out)
            if not recipe.hard_negatives.mine_every:
                self.negatives.mine(self.negatives.embeddings(store, recipe.view))
        paired = dict.fromkeys(clip for pair in self.pairs for clip in (pair.reference, pair.candidate))
        validating: list[str] = []
        if self.validator is not None:
            self.validator.refuse(paired, str(recipe.pairqa))
            validating = self.validator.clips()
        elif self.held_pairs is not None:
            validating = self.held_pairs.clips()
        self.features.rows([*paired, *validating])  # a clip without features is reported here
        self.trained = [pl.Series(list(paired), dtype=pl.String)]
        """keys of the clips that may train, by source"""
        if self.negatives is not None:
            self.trained.append(pl.Series(self.negatives.clips, dtype=pl.String))
        self.warm_texts = None if recipe.warm_start is None else self._warm_texts(recipe.warm_start)
        self.module = build(recipe, self.features, seed, device)
        self.comparing = comparing(recipe, self.module)
        self.held: list[Batch] = []
        """batches whose answers give the loss on what is held out"""
        self.sources = {name: self._source(name) for name in dict.fromkeys(recipe.sources)}

    def _source(self, name: str) -> Source:
        recipe, validation = self.recipe, self.recipe.validation
        if name == "pairs":
            chat, packs = self.module.lm.chat, self.module.lm.packs
            paired = PairedSource(recipe, self.pairs, chat, packs, self.seed, self.negatives)
            if self.held_pairs is not None:
                self.held += paired.of(self.held_pairs.pairs)
            return paired
        column = recipe.caption if name == "images" else recipe.narration
        texts = narrated(self.catalog, column, self.features, recipe.words)
        source = self._texted(name, self.hold_out.keep(texts, name))
        self.trained.append(pl.Series(source.clips(), dtype=pl.String))
        if validation is not None and validation.share is not None and self.held_pairs is None:
            self._hold(name, texts.filter(pl.col("key").is_in(self.hold_out.validating.implode())), validation)
        return source

    def _hold(self, name: str, texts: pl.DataFrame, validation: Validation) -> None:
        """Add batches of held-out texts (key, text), as the source makes them. StepDiffError: there are too few."""
        need_rows(texts.height, validation, f"texts of {name}")
        source = self._texted(name, texts)
        need_rows(len(source.items), validation, name)
        chosen = drawn(source.items, validation.rows, generator(self.seed, "validation texts", name))
        self.held += [source.of(chosen[i : i + source.size]) for i in range(0, len(chosen), source.size)]

    def _texted(self, name: str, texts: pl.DataFrame) -> TextedClips | Sequences:
        """Return the source of that name of these texts (key, text)."""
        recipe, chat, outputs = self.recipe, self.module.lm.chat, self.recipe.projector.outputs
        if name == "sequences":
            return Sequences(sequences(texts, self.catalog), chat, outputs, recipe.batch, self.seed)
        question, order = NARRATION_QUESTION, "order of clips"
        if name == "images":
            question, order = CAPTION_QUESTION, "order of images"
        return TextedClips(texts, question, chat, outputs, recipe.batch, self.seed, order)

    def _warm_texts(self, options: WarmStart) -> pl.DataFrame:
        """Return key and text of what the warm start reads. StepDiffError: there is nothing."""
        texts = pl.concat([split_texts(self.catalog, name, self.features, "train") for name in options.texts])
        if texts.is_empty():
            raise StepDiffError(
                f"warm start: no clip of the train split has features and a {' or '.join(options.texts)}; "
                "featurize some"
            )
        texts = self.hold_out.keep(texts, "warm start")
        self.trained.append(texts["key"])
        return texts

    def trained_on(self) -> TrainedOn:
        """Return the clips that the sources and the warm start may draw."""
        return TrainedOn.of(self.catalog, pl.concat(self.trained))

    def groups(self) -> list[dict[str, Any]]:
        rate, lora = self.recipe.schedule.learning_rate, self.recipe.lora
        groups: list[dict[str, Any]] = [{"params": list(self.module.projector.parameters()), "lr": rate}]
        trained = self.module.lm.trained()
        if self.module.comparison is not None:
            trained = [*self.module.comparison.parameters(), *trained]
        if trained:
            groups.append({"params": trained, "lr": rate if lora is None else lora.learning_rate})
        return groups

    def prepare(self, say: Callable[[str], None]) -> None:
        if self.recipe.init is not None:
            checkpoint = Run(Path(self.recipe.init)).start(self.module)
            say(f"starts from {checkpoint}")
        if self.held_pairs is not None:
            say(self.held_pairs.line())
        options, texts = self.recipe.warm_start, self.warm_texts
        if options is None or texts is None:
            return
        say(f"warm start on {len(texts)} texts of the train split ({', '.join(options.texts)})")
        report, precision = step_lines("warm start", options.steps), self.recipe.precision
        warm_start(self.module, self.features, texts, self.pairs, options, precision, self.seed, report)

    def batch(self, number: int) -> Batch:
        """Return the training batch of that number."""
        names = self.recipe.sources
        turn, place = divmod(number, len(names))
        own = turn * names.count(names[place]) + names[:place].count(names[place])  # a source may have several places
        return self.sources[names[place]].batch(own)

    def loss(self, batch: int) -> Tensor:
        """Return the loss of the training batch of that number."""
        hard, (step, within) = self.recipe.hard_negatives, divmod(batch, self.recipe.schedule.accumulate)
        if hard is not None and hard.mine_every and within == 0 and step % hard.mine_every == 0:
            self.mine()
        started = time.monotonic()
        drawn_batch = self.batch(batch)
        tokens = self.features.read(drawn_batch.clips, self.device)
        self.counts += Counts(
            self.recipe.batch,
            int((drawn_batch.rows.segment != PADDING).sum()),
            len(drawn_batch.clips),
            time.monotonic() - started,
        )
        with autocast(self.device, self.recipe.precision):
            return answer_loss(self.module, drawn_batch.rows, tokens, self.comparing)

    @torch.no_grad()
    def mine(self) -> None:
        """Search hard negatives by the mean of each clip's projected tokens, as the projector now is."""
        assert self.negatives is not None
        vectors = []
        for start in range(0, len(self.negatives.clips), CLIPS_MINED):
            tokens = self.features.read(self.negatives.clips[start : start + CLIPS_MINED])
            with autocast(self.device, self.recipe.precision):
                vectors.append(self.module.project(tokens).float().mean(dim=1).cpu().numpy())
        self.negatives.mine(np.concatenate(vectors))

    def validate(self) -> dict[str, float | None]:
        method = StepDiff(self.module, self.features)
        with autocast(self.device, self.recipe.precision):
            if self.validator is not None:
                return self.validator.figures(method)
            if not self.held:
                return {}
            loss = mean_loss(self.module, self.features, self.held)
            if self.held_pairs is None:
                return {"score": -loss, "loss": loss}
            return self.held_pairs.figures(loss, method.score_answers)
