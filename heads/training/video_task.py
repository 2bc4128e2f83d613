"""Training of video language models from cached tokens: one task for VCLM, Interleaved and
StepDiff.

Batch b is of source b modulo the number of sources, as the supplement's S3 samples its data sets.

Guarantees
- only the projector changes, and of the language model what the recipe trains: nothing, LoRA, or
  all
- no source draws a clip that is held out; a clip without features is reported before anything
  trains
- any number of processes validates with the figures of one
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from heads.data.catalog_rows import need_columns
from heads.data.clips import Features, ReadAhead, split_texts
from heads.data.hold_out import HoldOut
from heads.data.packing import Packed
from heads.data.paired_qa import clips_in
from heads.data.texts import TextRuns, Texts
from heads.methods.stepdiff import StepDiff
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import LanguageModel, autocast, pick_precision
from heads.models.parallelize import load_divided, plain_weights
from heads.models.public.cached import CachedClips, CachedLM, cached_model
from heads.models.video_lm import Projector, VideoLM
from heads.training.checkpoint import Run
from heads.training.log import ReadCounts
from heads.training.recipe import Scaling, VideoLMRecipe
from heads.training.sources import (
    SEQUENCE,
    HardNegatives,
    PairedSource,
    Sequences,
    Source,
    TextedClips,
    TrainingBatch,
)
from heads.training.validation import HeldOutPairs, Validator, divide, need_rows
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator, torch_seed
from stepdiff_core.tasks.prompts import CAPTION_QUESTION, NARRATION_QUESTION
from stepdiff_core.tasks.testsets import drawn
from store import Store

CLIPS_MINED = 32  # projected at a time


def clips_of(recipe: VideoLMRecipe, store: Store) -> Features:
    """Return the clips that the model of a recipe reads."""
    return (
        CachedClips(store, recipe.view) if recipe.public else Features(store, recipe.view, "tokens")
    )


def build(
    recipe: VideoLMRecipe,
    features: Features,
    seed: int,
    device: str,
    scaling: Scaling | None = None,
    group: Group = ALONE,
) -> VideoLM:
    """Return the untrained model of a recipe; the same seed gives the same weights, divided or
    not."""
    precision, scaling = pick_precision(device, recipe.precision), scaling or Scaling()
    frozen = "float32" if recipe.full else precision if scaling.frozen == "auto" else scaling.frozen
    if frozen == "bfloat16" and precision == "float32":
        raise StepDiffError(
            "scaling.frozen bfloat16 needs products in bfloat16; set video_lm.precision to bfloat16"
        )
    name, dtype = recipe.language_model, getattr(torch, frozen)
    cached: CachedLM | None = None
    if isinstance(features, CachedClips):
        if scaling.fsdp:
            raise StepDiffError("a video_lm.public model is not divided: set scaling.fsdp false")
        cached = cached_model(name, features, device, exact=frozen == "float32")
        lm = cached.lm
    elif scaling.fsdp and group.mesh is not None:
        lm = load_divided(name, group.mesh, device, dtype, recipe.full)
    else:
        lm = LanguageModel.load(name, device, exact=frozen == "float32")
    with plain_weights(lm.model, device) if scaling.fsdp else nullcontext():
        lm.train_as(recipe, seed)
    if frozen == "bfloat16" and not scaling.fsdp:
        lm.hold_frozen(torch.bfloat16)
    if cached is not None:
        return cached
    torch.manual_seed(torch_seed(seed, "projector weights"))
    tokens, channels = features.shape
    projector = Projector(recipe.projector, tokens, channels, lm.width, lm.embedding_std).to(device)
    return VideoLM(lm, projector, recipe.projector.outputs)


def answer_loss(model: VideoLM, rows: Packed, tokens: Float[Tensor, "C N D"]) -> Float[Tensor, ""]:
    """Return the mean loss over the answer tokens of a batch; tokens: of the rows' clips."""
    losses, _ = model.token_losses(rows.to(model.lm.device), model.project(tokens))
    # divided on the device: its last bit is the same everywhere
    return losses.sum() / losses.new_full((), len(losses))


class VideoTask:
    divides_rows = False

    def __init__(
        self,
        recipe: VideoLMRecipe,
        store: Store,
        seed: int,
        device: str,
        hold_out: HoldOut | None = None,
        group: Group = ALONE,
        scaling: Scaling | None = None,
        words: WordEvidence | None = None,
    ) -> None:
        """hold_out: the test sets whose clips never train; the clips that validate are added to it.
        words: the evidence of a recipe that uses it (heads.training.run_record.words_of)."""
        assert (words is None) == (recipe.evidence is None)
        self.counts, self.group = ReadCounts(), group
        self.hold_out = hold_out or HoldOut()
        self.recipe, self.store, self.seed, self.device, self.words = (
            recipe,
            store,
            seed,
            device,
            words,
        )
        self.catalog = store.catalog("clips")
        self.features = clips_of(recipe, store)
        held_out = recipe.validation, self.hold_out, self.catalog, seed, self.features
        self.pairs, self.validator = divide(recipe.pairqa, *held_out, "pairs" in recipe.sources)
        self.trained = [
            self.features.rows(clips_in(pair.clips for pair in self.pairs)).astype(np.int32)
        ]
        """rows that may train, without rows of texts"""
        self.texts: list[Texts | TextRuns] = []
        """texts that train"""
        self.negatives: HardNegatives | None = None
        if recipe.hard_negatives is not None:
            neighbours = recipe.hard_negatives.neighbours
            self.negatives = HardNegatives(self.catalog, self.features, neighbours, self.hold_out)
            if not recipe.hard_negatives.mine_every:
                self.negatives.mine(self.negatives.embeddings(store, recipe.view))
            self.trained.append(self.negatives.rows)
        self.module = build(recipe, self.features, seed, device, scaling or Scaling(), group)
        self.held: list[TrainingBatch] = []
        """batches whose answers give the loss on held-out clips"""
        self.sources = {name: self._source(name) for name in dict.fromkeys(recipe.sources)}
        self.ahead = ReadAhead(self.read, device)
        self.mined: int | None = None
        """step of the last search for neighbours"""

    def _source(self, name: str) -> PairedSource | Source:
        recipe, chat = self.recipe, self.module.lm.chat
        if name == "pairs":
            words = self.words if recipe.evidence is not None and recipe.evidence.asked else None
            paired = PairedSource(
                recipe, self.pairs, chat, self.module.lm.packs, self.seed, self.negatives, words
            )
            if isinstance(self.validator, HeldOutPairs):
                self.held += paired.of(self.validator.pairs)
            return paired
        column = recipe.caption if name == "images" else recipe.narration
        read: Callable[..., Texts | TextRuns] = partial(Texts, words=recipe.words)
        if name == "sequences":
            need_columns(self.catalog, "video", "end")
            read = partial(TextRuns, length=SEQUENCE, words=recipe.words)
        clips = partial(split_texts, self.catalog, column, self.features, "train")
        texts = read(self.hold_out.kept(clips(), name))
        self.texts.append(texts)
        source: Source
        shared = chat, recipe.projector.outputs, recipe.batch, self.seed
        if isinstance(texts, TextRuns):
            source = Sequences(texts, *shared)
        elif name == "images":
            source = TextedClips(texts, CAPTION_QUESTION, *shared, "order of images")
        else:
            source = TextedClips(texts, NARRATION_QUESTION, *shared, "order of clips")
        if (validation := recipe.validation) is not None and self.validator is None:
            held = read(self.hold_out.validates(clips()))
            need_rows(len(held), validation, name if name == "sequences" else f"texts of {name}")
            chosen = drawn(held, validation.rows, generator(self.seed, "validation texts", name))
            self.held += [
                source.of(chosen[i : i + source.size]) for i in range(0, len(chosen), source.size)
            ]
        return source

    def trained_rows(self) -> list[np.ndarray]:
        """Return the rows of the clips that the sources may draw, in parts."""
        return [*self.trained, *(texts.rows for texts in self.texts)]

    def groups(self) -> list[dict[str, Any]]:
        rate, lora = self.recipe.schedule.learning_rate, self.recipe.lora
        projector = list(self.module.projector.parameters())
        groups: list[dict[str, Any]] = [{"params": projector, "lr": rate}] if projector else []
        trained = self.module.lm.trained()
        if trained:
            groups.append({"params": trained, "lr": rate if lora is None else lora.learning_rate})
        return groups

    def prepare(self) -> list[str]:
        start = self.recipe.init
        lines = [] if start is None else [f"starts from {Run(Path(start)).start(self.module)}"]
        return [*lines, str(self.validator)] if isinstance(self.validator, HeldOutPairs) else lines

    def batch(self, number: int) -> TrainingBatch:
        """Return the training batch of that number."""
        names = self.recipe.sources
        turn, place = divmod(number, len(names))
        # a source may have several places
        nth = turn * names.count(names[place]) + names[:place].count(names[place])
        return self.sources[names[place]].batch(nth)

    def read(self, batch: int) -> tuple[TrainingBatch, Tensor]:
        """Return a training batch, and the features of its clips on the device."""
        drawn_batch = self.batch(batch)
        return drawn_batch, self.features.read(drawn_batch.clips, self.device)

    def loss(self, batch: int, following: int | None = None) -> Tensor:
        """Return the loss of the training batch of that number, and begin to read the following
        one."""
        if self._mines(batch):
            self.mine()
            self.mined = batch // self.recipe.schedule.accumulate
        started = time.monotonic()
        # it depends on the neighbours that are found then
        if following is not None and self._mines(following):
            following = None
        drawn_batch, tokens = self.ahead.take(batch, following)
        waited = time.monotonic() - started
        self.counts += ReadCounts(
            self.recipe.batch, drawn_batch.rows.tokens, len(drawn_batch.clips), waited
        )
        with autocast(self.device, self.recipe.precision):
            return answer_loss(self.module, drawn_batch.rows, tokens)

    def _mines(self, batch: int) -> bool:
        """Return whether neighbours are searched before the batch: it is the first of its step in
        this process."""
        hard, step = self.recipe.hard_negatives, batch // self.recipe.schedule.accumulate
        return (
            hard is not None
            and hard.mine_every > 0
            and step % hard.mine_every == 0
            and step != self.mined
        )

    @torch.no_grad()
    def mine(self) -> None:
        """Search hard negatives by the mean of each clip's projected tokens, as the projector now
        is."""
        assert self.negatives is not None
        rows = self.negatives.rows

        def means(start: int) -> Float[np.ndarray, "C E"]:
            tokens = self.features.read(self.catalog.keys(rows[start : start + CLIPS_MINED]))
            with autocast(self.device, self.recipe.precision):
                return self.module.project(tokens).float().mean(dim=1).cpu().numpy()

        self.negatives.mine(
            np.concatenate(self.group.spread(means, range(0, len(rows), CLIPS_MINED))).__getitem__
        )

    @torch.no_grad()
    def _held_losses(self, batch: TrainingBatch) -> tuple[float, int]:
        """Return the sum of the losses over the answer tokens of a batch, and their number."""
        tokens = self.features.read(batch.clips, self.module.lm.device)
        losses, _ = self.module.token_losses(
            batch.rows.to(self.module.lm.device), self.module.project(tokens)
        )
        return float(losses.sum()), len(losses)

    def validate(self) -> dict[str, float | None]:
        method = StepDiff(
            self.module,
            self.features,
            group=self.group,
            words=self.words,
            evidence=self.recipe.evidence,
        )
        with autocast(self.device, self.recipe.precision):
            if isinstance(self.validator, Validator):
                return self.validator.figures(method)
            if not self.held:
                return {}
            totals, counts = zip(*self.group.spread(self._held_losses, self.held), strict=True)
            loss = sum(totals) / sum(counts)
            if self.validator is None:
                return {"score": -loss, "loss": loss}
            return self.validator.figures(
                loss, partial(method.score_answers, about=self.validator.about)
            )
