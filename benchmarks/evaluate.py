"""Scoring DiffMCQ pair by pair, next to a forward pass for every (pair, text).

python -m benchmarks.evaluate                                  # SmolLM2-135M, about five minutes
python -m benchmarks.evaluate --pairs 1 --texts [8] --rounds 1 # a first look

A pair's prefix is 32 tokens a clip and the words around them; after it comes every text that is asked about the pair,
as in the published set, which asks about 23 of each. The projected tokens are random: they cost what real ones cost.
The naive loop is what is usually written: one whole prompt at a time through the whole model. Another one asks the
prompts in batches, with logits only at answers. All are in float32; scores are compared before times. On a GPU the
processor's time means nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from benchmarks.harness.report import Row, benchmark, line, measured
from stepdiff.common.cli import command

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from heads.methods.stepdiff import PairTexts
    from heads.models.video_lm import VideoLM

CLOSE = 1e-4  # nats a token
MANY = 8  # texts a pair from which on packing must pay
CATEGORIES = ("Ingredients", "Tools/Equipment", "Technique", "Actions", "Visuals")
WORDS = (
    ("blue", "wooden", "small", "new"),
    ("bowl", "spatula", "pan", "whisk"),
    ("slowly", "by hand", "twice"),
    ("red", "glass", "large"),
    ("cup", "fork", "pot"),
)
TOKENS, CHANNELS = 16, 64  # of a clip before the projector

Scores = list[list[float]]


@dataclass(frozen=True)
class Options:
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id"""
    pairs: int = 4
    """distinct pairs"""
    texts: tuple[int, ...] = (2, 8, 23)
    """texts that are asked of each pair, one case each"""
    rounds: int = 3
    """measurements of each way, whose median counts"""
    device: str = "cpu"
    """cpu or cuda"""


class RandomTokens:
    """Random features, the same for the same clip."""

    def read(self, keys: Sequence[str], device: "str | torch.device" = "cpu") -> "Tensor":
        """Return [K, TOKENS, CHANNELS]."""
        import torch

        made = [torch.randn(TOKENS, CHANNELS, generator=torch.Generator().manual_seed(int(key))) for key in keys]
        return torch.stack(made).to(device)


def asked(pairs: int, texts: int) -> "list[PairTexts]":
    """Return pairs with different texts, whose categories alternate."""
    from heads.methods.stepdiff import PairTexts

    said = product(*WORDS)
    found = []
    for pair in range(pairs):
        own = [f"uses a {a} {b} {c} instead of a {d} {e} for the step" for a, b, c, d, e in islice(said, texts)]
        by_category = tuple((CATEGORIES[place % len(CATEGORIES)], text) for place, text in enumerate(own))
        assert len(own) == texts, "too many texts are asked for"
        found.append(PairTexts((str(2 * pair), str(2 * pair + 1)), by_category))
    return found


def one_by_one(model: "VideoLM", features: RandomTokens, pairs: "list[PairTexts]") -> Scores:
    """Run the whole model for every (pair, text)."""
    from heads.data.packing import NO_TARGET
    from heads.methods.stepdiff import difference_turn

    found = []
    for own in pairs:
        clips = model.project(features.read(list(own.pair), model.lm.device))
        scores = []
        for text in own.texts:
            batch, _ = model.pack([[difference_turn(*text)]], clips, True)
            said = model.lm.model(inputs_embeds=model.embed(batch, clips)).logits.log_softmax(-1)
            places = batch.targets[0] != NO_TARGET
            scores.append(float(said[0, places].gather(1, batch.targets[0, places, None]).mean()))
        found.append(scores)
    return found


def in_batches(model: "VideoLM", features: RandomTokens, pairs: "list[PairTexts]") -> Scores:
    """Ask a prompt for every (pair, text), in batches as large as those of pairs in ours."""
    from heads.methods.stepdiff import ROWS_A_BATCH, difference_turn

    found = []
    for own in pairs:
        clips = model.project(features.read(list(own.pair), model.lm.device))
        scores: list[float] = []
        for start in range(0, len(own.texts), ROWS_A_BATCH):
            turns = [difference_turn(*text) for text in own.texts[start : start + ROWS_A_BATCH]]
            ends = clips.repeat(len(turns), 1, 1)
            scores += [value for (value,) in model.log_likelihoods([[turn] for turn in turns], ends, mean=True)]
        found.append(scores)
    return found


def run(options: Options) -> dict[str, Any]:
    """Return rows, lines, and the largest difference of two scores."""
    import torch

    from heads.methods.stepdiff import ROWS_A_BATCH, StepDiff
    from heads.models.language_model import LanguageModel
    from heads.models.projector import Projector
    from heads.models.video_lm import VideoLM
    from heads.training.recipe import ProjectorOptions

    lm = LanguageModel.load(options.language_model, options.device)
    lm.model.float()
    torch.manual_seed(0)
    shape = ProjectorOptions(width=64, heads=4)
    projector = Projector(shape, TOKENS, CHANNELS, lm.width, lm.embedding_std).to(options.device)
    model, features = VideoLM(lm, projector, shape.outputs), RandomTokens()
    ways: dict[str, Callable[[list[PairTexts]], Scores]] = {
        "one by one": partial(one_by_one, model, features),
        f"in batches of {ROWS_A_BATCH}": partial(in_batches, model, features),
        "pair by pair, ours": lambda pairs: StepDiff(model, features).score_texts(pairs),
    }
    naive, batches, ours = ways
    rows: list[Row] = []
    lines: list[Row] = []
    apart = 0.0
    for texts in options.texts:
        pairs, case = asked(options.pairs, texts), f"{texts} texts a pair"
        with torch.inference_mode():
            scores = {name: torch.tensor(way(pairs)) for name, way in ways.items()}  # and warm
            apart = max(apart, *(float((scores[naive] - found).abs().max()) for found in scores.values()))
            assert apart <= CLOSE, f"{case}: scores differ by {apart}"
            calls = {name: partial(way, pairs) for name, way in ways.items()}
            seconds = measured(calls, options.rounds, f"{case}, ")
        count, base = options.pairs * texts, seconds[naive]
        for name, own in seconds.items():
            rows.append(
                {
                    "texts a pair": texts,
                    "way": name,
                    "ms a text": round(1000 * own.clock / count, 1),
                    "CPU ms a text": round(1000 * own.cpu / count, 1),
                    "times as fast as one by one": round(base.clock / own.clock, 2),
                    "by CPU time": round(base.cpu / own.cpu, 2),
                }
            )
        fast, least = seconds[ours], 3.0 if texts >= MANY else 1.0
        lines.append(line(case, base.clock, fast.clock, least, "one by one"))
        lines.append(line(f"{case}, CPU time", base.cpu, fast.cpu, least, "one by one"))
        lines.append(line(case, seconds[batches].clock, fast.clock, 1.0, batches))
    facts = {"language_model": options.language_model, "device": options.device, "pairs": options.pairs}
    return {"rows": rows, "lines": lines, **facts, "scores_apart": apart}


main = benchmark("evaluate", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
