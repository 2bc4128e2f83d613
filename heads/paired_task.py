"""Training StepDiff: the projector, and LoRA where asked, on paired QA from cached tokens.

Guarantees
- only the projector, and LoRA where the recipe has it, changes
- validation reads the val test sets it is given, on rows drawn by seed
"""

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from heads.clips import Features
from heads.device import autocast
from heads.errors import HeadsError
from heads.language_model import LanguageModel
from heads.methods.stepdiff import StepDiff
from heads.paired_qa import ONE_SIDED, PairQuestions, balanced, draw, one_sided, read_paired_qa, turns
from heads.projector import Projector
from heads.recipe import VideoLMRecipe
from heads.scoring import score
from heads.testsets import read_test_set
from heads.training import Progress
from heads.video_lm import VideoLM
from heads.warm_start import split_texts, warm_start
from store import Store


def build(recipe: VideoLMRecipe, features: Features, seed: int, device: str) -> VideoLM:
    """The untrained model of a recipe; the same seed gives the same weights."""
    lm = LanguageModel.load(recipe.language_model, device)
    if recipe.lora is not None:
        lm.add_lora(recipe.lora, seed)
    if recipe.precision == "bfloat16":
        lm.hold_frozen(torch.bfloat16)
    torch.manual_seed(seed)
    tokens, channels = features.shape
    projector = Projector(recipe.projector, tokens, channels, lm.width, lm.embedding_std).to(device)
    return VideoLM(lm, projector, recipe.projector.outputs)


def drawn(rows: list[Any], count: int, seed: int) -> list[Any]:
    """`count` rows by seed, in file order."""
    places = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(places)]


class PairedTask:
    def __init__(self, recipe: VideoLMRecipe, store: Store, seed: int, device: str) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.catalog = store.catalog("clips").frame()
        self.features = Features(store, recipe.view, "tokens")
        self.pairs = read_paired_qa(recipe.pairqa, self.catalog)
        self.one_sided = one_sided(self.pairs)
        if recipe.one_sided_first and (recipe.pairs < 2 or not all(self.one_sided)):
            raise HeadsError(
                f"{recipe.pairqa}: one_sided_first needs two pairs a batch, and pairs whose YES / NO answers, "
                f"{ONE_SIDED} or more, are all YES, and such whose are all NO; set video_lm.one_sided_first to 0"
            )
        check = recipe.validation
        self.options = drawn(read_test_set("diffmcq", check.diffmcq), check.rows, seed)
        self.ranks = drawn(read_test_set("diffrank", check.diffrank), check.rows, seed)
        self.module = build(recipe, self.features, seed, device)

    def groups(self) -> list[dict[str, Any]]:
        rate = self.recipe.schedule.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": list(self.module.projector.parameters()), "lr": rate}
        ]
        if self.recipe.lora is not None:
            lora = list(self.module.lm.lora_state().values())
            groups.append({"params": lora, "lr": self.recipe.lora.learning_rate})
        return groups

    def prepare(self, told: Progress) -> None:
        options = self.recipe.warm_start
        if options is None:
            return
        texts = pl.concat([split_texts(self.catalog, name, self.features, "train") for name in options.texts])
        if texts.is_empty():
            raise HeadsError(
                f"warm start: no clip of the train split has features and a {' or '.join(options.texts)}; "
                "featurize some"
            )
        told.say(f"warm start on {len(texts)} texts of the train split ({', '.join(options.texts)})")
        steps = Progress("warm start", options.steps)
        precision = self.recipe.precision
        warm_start(self.module, self.features, texts, self.pairs, options, precision, self.seed, steps.told)

    def drawn_pairs(self, batch: int) -> list[PairQuestions]:
        """The pairs of one batch; in the first ones two of three are one-sided, alike and unlike by turns."""
        recipe, seed = self.recipe, self.seed
        pairs = [self.pairs[i] for i in draw(len(self.pairs), recipe.pairs, batch, seed)]
        if batch < recipe.one_sided_first * recipe.schedule.accumulate:
            count = recipe.pairs * 2 // 3
            for place in range(count):
                number = batch * count + place
                pool = self.one_sided[number % 2]
                pairs[place] = pool[draw(len(pool), 1, number // 2, seed)[0]]
        return pairs

    def loss(self, batch: int) -> Tensor:
        """Mean loss over the answer tokens of one batch of pairs, each token by its turn's weight."""
        recipe = self.recipe
        pairs = self.drawn_pairs(batch)
        rng = np.random.default_rng([self.seed, 1, batch])
        decisions = batch < recipe.decisions_first * recipe.schedule.accumulate
        asked = balanced([turns(pair, recipe.questions, rng, decisions) for pair in pairs], recipe.yes_no_weight)
        tokens = self.features.read(
            [clip for pair in pairs for clip in (pair.reference, pair.candidate)], self.device
        )
        packed = recipe.packed and self.module.lm.packs
        with autocast(self.device, recipe.precision):
            clips = self.module.project(tokens)
            losses, weights, _ = self.module.token_losses(*self.module.pack(asked, clips, packed))
        return (losses * weights).sum() / weights.sum()

    def validate(self) -> dict[str, float | None]:
        method = StepDiff(self.module, self.features)
        with autocast(self.device, self.recipe.precision):
            options = score("diffmcq", self.options, method.score_options(self.options), 0)
            ranks = score("diffrank", self.ranks, method.rank(self.ranks), 0)
        accuracy, tau = options["accuracy"], ranks["ktau_defined"]
        return {
            # A model that says the same of all targets of every row ranks nothing: no tau, and no credit.
            "score": (accuracy + (tau or 0.0)) / 2,
            "accuracy": accuracy,
            "ktau": tau,
            "ktau_within_step": ranks["ktau_within_step"],
        }
