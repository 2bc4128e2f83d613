"""Training of a contrastive head: a frozen visual view and a frozen text view in one space, so that
texts find clips.

It trains on clips and their texts; with `contrastive.pairs` also on pairs, as VLEmb compares them:
the text of a difference against the average of the pair's embeddings, and the two embeddings
against each other.

Guarantees
- only texts and pairs of the train split train it, and no held-out ones
- a batch depends only on seed and number; negatives are gathered from all processes with the
  gradients of one
- trained on pairs, it is validated as heads.methods.vlemb evaluates the view that it writes
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from heads.data.clips import Features, ReadAhead, split_texts
from heads.data.hold_out import HoldOut
from heads.data.paired_qa import Order, PairQuestions, clips_in, kind
from heads.data.texts import Texts
from heads.methods.vlemb import VLEmb
from heads.models.video_lm import Projector
from heads.training.log import ReadCounts
from heads.training.recipe import ContrastiveRecipe, PairsContrast
from heads.training.validation import HeldOutPairs, Validator, divide
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator, torch_seed
from stepdiff_core.tasks.declining import declines
from stepdiff_core.tasks.prompts import NO, YES
from stepdiff_core.tasks.testsets import Pair
from store import Store, text_key

Differing = tuple[Pair, tuple[str, ...]]
"""a pair, and its answers that state a difference"""
Judged = tuple[Pair, float]
"""a pair, and the share of YES among its YES / NO answers"""


def contrast_pairs(
    pairs: Sequence[PairQuestions], path: str
) -> tuple[list[Differing], list[Judged]]:
    """Return the pairs, of the paired QA at `path`, with answers of either kind; many are in both
    lists."""
    differing: list[Differing] = []
    judged: list[Judged] = []
    for questions in pairs:
        pair, answers = questions.clips, [turn.answer for turn in questions.turns]
        texts = tuple(
            answer for answer in answers if kind(answer) == "text" and not declines(answer)
        )
        yes = [answer == YES for answer in answers if answer in (YES, NO)]
        if texts:
            differing.append((pair, texts))
        if yes:
            judged.append((pair, sum(yes) / len(yes)))
    if not differing or not judged:
        raise StepDiffError(
            f"{path}: no answer says what differs, or none is YES or NO; drop contrastive.pairs"
        )
    return differing, judged


@dataclass(frozen=True)
class PairBatch:
    """P pairs with the text of a difference, and P with their share of YES; their features belong
    to S pairs, this process's share."""

    differing: Float32[Tensor, "S 2 N D"]
    texts: Float32[Tensor, "S E"]
    judged: Float32[Tensor, "S 2 N D"]
    alike: Float32[Tensor, " P"]


class PairContrast:
    """Batches of pairs of the recipe's paired QA, read from cached features."""

    def __init__(
        self,
        options: PairsContrast,
        pairs: Sequence[PairQuestions],
        clips: Features,
        texts: Features,
        seed: int,
        group: Group = ALONE,
    ) -> None:
        """Select the pairs. StepDiffError: texts without features, or no pair of either kind."""
        self.options, self.clips, self.texts, self.seed, self.group = (
            options,
            clips,
            texts,
            seed,
            group,
        )
        self.differing, self.judged = contrast_pairs(pairs, options.pairqa)
        self.differences = Order(len(self.differing), seed, "contrastive order of differences")
        self.decisions = Order(len(self.judged), seed, "contrastive order of decisions")
        keys = list(dict.fromkeys(text_key(text) for _, texts in self.differing for text in texts))
        lacking = int((~texts.has(keys)).sum())
        if lacking:
            raise StepDiffError(
                f"{options.pairqa}: {lacking} of {len(keys)} texts of differences have no "
                f"{texts.view.name} features; run python -m featurize --manifest {options.pairqa} "
                f"--column answer --encoder {texts.view.provenance.encoder} on the store"
            )

    def batch(self, number: int, device: str) -> PairBatch:
        """Return this process's share of the batch of that number; one text is drawn for a pair
        with several."""
        rng = generator(self.seed, "contrastive texts", number)
        differing = [self.differing[place] for place in self.differences.draw(self.size, number)]
        judged = [self.judged[place] for place in self.decisions.draw(self.size, number)]
        texts = [answers[rng.integers(len(answers))] for _, answers in differing]
        share = self.group.share(self.size)
        return PairBatch(
            self._read(differing[share], device),
            self.texts.read([text_key(text) for text in texts[share]], device),
            self._read(judged[share], device),
            torch.tensor([alike for _, alike in judged], device=device),
        )

    @property
    def size(self) -> int:
        """Pairs of each kind in a batch."""
        return min(self.options.pairs, len(self.differing), len(self.judged))

    def _read(self, pairs: list[tuple[Pair, Any]], device: str) -> Float32[Tensor, "P 2 N D"]:
        return self.clips.read([clip for pair, _ in pairs for clip in pair], device).unflatten(
            0, (-1, 2)
        )


BLOCK = 64  # clips or texts embedded at a time
VALIDATED = 2048  # most clips of the val split in the loss


class ContrastiveHead(nn.Module):
    """Perceiver over a clip's tokens, linear map of a text's embedding, and a temperature.

    The losses are of a whole batch; each process of the group embeds its share of the rows.
    """

    def __init__(
        self, recipe: ContrastiveRecipe, tokens: int, channels: int, text_dim: int
    ) -> None:
        super().__init__()
        self.group = ALONE
        self.clip = Projector(recipe.projector, tokens, channels, recipe.width, 1.0)
        self.text = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, recipe.width))
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def embed_clips(
        self, tokens: Float[Tensor, "C N D"], leave_out: float = 0.0
    ) -> Float[Tensor, "C W"]:
        return functional.normalize(self.clip(tokens, leave_out).mean(dim=1), dim=-1)

    def embed_texts(self, texts: Float[Tensor, "C E"]) -> Float[Tensor, "C W"]:
        return functional.normalize(self.text(texts), dim=-1)

    def loss(
        self,
        tokens: Float[Tensor, "S N D"],
        texts: Float[Tensor, "S E"],
        count: int,
        leave_out: float = 0.0,
    ) -> Tensor:
        """Return the loss of `count` clips against their own texts."""
        clips = self.group.gather(self.embed_clips(tokens, leave_out), count)
        return self.match(clips, self.group.gather(self.embed_texts(texts), count))

    def pair_loss(self, batch: PairBatch, alike_weight: float, leave_out: float = 0.0) -> Tensor:
        """Return the loss of pairs' averages against the texts of their differences, and of each
        pair's cosine against its share of YES."""
        count = len(batch.alike)
        differing, judged = (
            self.embed_clips(ends.flatten(0, 1), leave_out).unflatten(0, (-1, 2))
            for ends in (batch.differing, batch.judged)
        )
        average = self.group.gather(functional.normalize(differing.mean(dim=1), dim=-1), count)
        cosine = self.group.gather((judged[:, 0] * judged[:, 1]).sum(dim=-1)[:, None], count)[:, 0]
        error = cosine - batch.alike
        texts = self.group.gather(self.embed_texts(batch.texts), count)
        return self.match(average, texts) + alike_weight * error.square().mean()

    def match(self, clips: Float[Tensor, "C W"], texts: Float[Tensor, "C W"]) -> Tensor:
        """Return the symmetric cross-entropy over the batch (InfoNCE)."""
        logits = self.log_scale.clamp(max=4.6).exp() * clips @ texts.T
        targets = torch.arange(len(logits), device=logits.device)
        return (
            functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)
        ) / 2


def build(recipe: ContrastiveRecipe, store: Store, seed: int) -> ContrastiveHead:
    torch.manual_seed(torch_seed(seed, "contrastive weights"))
    tokens, channels = store.view("clips", recipe.view).features["tokens"].shape
    (text_dim,) = store.view("texts", recipe.text_view).features["embedding"].shape
    return ContrastiveHead(recipe, tokens, channels, text_dim)


class ContrastiveTask:
    divides_rows = True

    def __init__(
        self,
        recipe: ContrastiveRecipe,
        store: Store,
        seed: int,
        device: str,
        hold_out: HoldOut | None = None,
        group: Group = ALONE,
    ) -> None:
        """hold_out: the test sets whose clips never train."""
        hold_out = hold_out or HoldOut()
        self.counts, self.group = ReadCounts(), group
        self.recipe, self.seed, self.device = recipe, seed, device
        self.features = Features(store, recipe.view, "tokens")
        self.texts = Features(store, recipe.text_view, "embedding", "texts")
        self.catalog = catalog = store.catalog("clips")
        pairqa, validation = (
            (None, None) if recipe.pairs is None else (recipe.pairs.pairqa, recipe.pairs.validation)
        )
        pairs, self.validator = divide(pairqa, validation, hold_out, catalog, seed, self.features)
        texts = partial(split_texts, catalog, recipe.text, self.features)
        self.train = Texts(hold_out.kept(texts("train"), "clips"))
        shared = isinstance(self.validator, HeldOutPairs)
        self.val: Sequence[tuple[str, str]] = Texts(
            hold_out.validates(texts("train")) if shared else texts("val")
        )
        if not self.train or not self.val:
            raise StepDiffError(
                f"{store.path}: the contrastive head needs clips with features and a {recipe.text} "
                "in the train split, and in the val split or among what "
                "contrastive.pairs.validation.share holds out"
            )
        if len(self.val) > VALIDATED:
            self.val = [
                self.val[i]
                for i in Order(len(self.val), seed, "validation clips").draw(VALIDATED, 0)
            ]
        self.order = Order(len(self.train), seed, "contrastive order")
        self.pairs: PairContrast | None = None
        self.held: PairContrast | None = None
        """batches of held-out pairs"""
        if recipe.pairs is not None:
            contrast = partial(
                PairContrast,
                recipe.pairs,
                clips=self.features,
                texts=self.texts,
                seed=seed,
                group=group,
            )
            self.pairs = contrast(pairs)
            if isinstance(self.validator, HeldOutPairs):
                self.held = contrast(self.validator.pairs)
        rows = self.size if self.pairs is None else min(self.size, self.pairs.size)
        if rows < group.size:
            raise StepDiffError(
                f"{group.size} workers divide the rows of a batch among themselves, and it has "
                f"{rows}: give at most {rows} workers, or larger contrastive.clips and "
                "contrastive.pairs.pairs"
            )
        self.module = build(recipe, store, seed).to(device)
        self.module.group = group
        self.ahead = ReadAhead(self.read, device)

    def trained_rows(self) -> list[np.ndarray]:
        """Return the rows of the clips that batches may hold, in parts."""
        pairs = (
            []
            if self.pairs is None
            else [pair for pair, _ in (*self.pairs.differing, *self.pairs.judged)]
        )
        return [self.train.rows, self.catalog.rows(clips_in(pairs))]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters())}]

    def prepare(self) -> list[str]:
        lines = [f"{len(self.train)} (clip, text) pairs train, {len(self.val)} validate"]
        if isinstance(self.validator, HeldOutPairs):
            lines.append(str(self.validator))
        if (pairs := self.pairs) is not None:
            lines.append(
                f"{len(pairs.differing)} pairs with a difference and {len(pairs.judged)} with YES "
                "or NO"
            )
        return lines

    def read(self, batch: int) -> tuple[Tensor, Tensor, PairBatch | None]:
        """Return this process's share of a training batch on the device: clips, their texts, and
        pairs."""
        places = self.order.draw(self.size, batch)
        rows = [self.train[place] for place in places[self.group.share(self.size)]]
        clips = self.features.read([key for key, _ in rows], self.device)
        texts = self.texts.read([text_key(text) for _, text in rows], self.device)
        return clips, texts, None if self.pairs is None else self.pairs.batch(batch, self.device)

    @property
    def size(self) -> int:
        """Clips of a batch."""
        return min(self.recipe.clips, len(self.train))

    def loss(self, batch: int, following: int | None = None) -> Tensor:
        """Return the loss of the batch; each process has an equal part of it: their gradients add
        up."""
        started = time.monotonic()
        clips, texts, pairs = self.ahead.take(batch, following)
        number = 0 if pairs is None else len(pairs.differing) + len(pairs.judged)
        self.counts += ReadCounts(
            samples=len(clips) + number,
            clips=len(clips) + 2 * number,
            waited=time.monotonic() - started,
        )
        loss = self.module.loss(clips, texts, self.size, self.recipe.leave_out)
        if self.pairs is not None and pairs is not None:
            loss = loss + self.module.pair_loss(
                pairs, self.pairs.options.alike_weight, self.recipe.leave_out
            )
        return loss / self.group.size

    @torch.inference_mode()
    def validate(self) -> dict[str, float | None]:
        keys, texts = zip(*self.val, strict=True)
        seen = self._embedded_clips(keys).vectors
        read = self._embedded_texts([text_key(text) for text in texts]).vectors
        loss = float(self.module.match(seen.to(self.device), read.to(self.device)))
        if isinstance(self.validator, Validator):
            return {**self.validator.figures(self._vlemb(self.validator)), "loss": loss}
        if self.validator is not None and self.held is not None:
            chosen = self.validator
            weight, number = self.held.options.alike_weight, -(-len(chosen.pairs) // self.held.size)
            losses = [
                float(self.module.pair_loss(self.held.batch(i, self.device), weight))
                for i in range(number)
            ]
            figures = chosen.figures(
                sum(losses) / number, lambda rows: self._vlemb(chosen).score_options(rows)
            )
            return {**figures, "text_loss": loss}
        return {"loss": loss} if self.pairs is not None else {"score": -loss, "loss": loss}

    def _vlemb(self, rows: Validator | HeldOutPairs) -> VLEmb:
        """Return VLEmb over the head's current embeddings of the clips and texts of validation
        rows."""
        texts = {text_key(row.difference): None for row in rows.choices}
        return VLEmb(self._embedded_clips(rows.clips()), self._embedded_texts(list(texts)))

    def _embedded_clips(self, keys: Sequence[str]) -> "Embedded":
        return Embedded(keys, self.features, self.module.embed_clips, self.device, self.group)

    def _embedded_texts(self, keys: Sequence[str]) -> "Embedded":
        return Embedded(keys, self.texts, self.module.embed_texts, self.device, self.group)


class Embedded:
    """Embeddings of some keys, computed once, in blocks that the processes take in turn."""

    def __init__(
        self,
        keys: Sequence[str],
        features: Features,
        embed: Callable[[Tensor], Tensor],
        device: str,
        group: Group = ALONE,
    ) -> None:
        self.places = {key: place for place, key in enumerate(keys)}
        parts = [keys[start : start + BLOCK] for start in range(0, len(keys), BLOCK)]
        self.vectors = torch.cat(
            group.spread(lambda part: embed(features.read(part, device)).cpu(), parts)
        )

    def read(
        self, keys: Sequence[str], device: str | torch.device = "cpu"
    ) -> Float32[Tensor, "K E"]:
        """Return the embeddings of keys among them."""
        return self.vectors[[self.places[key] for key in keys]].to(device)
