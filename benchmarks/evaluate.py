"""Scoring DiffMCQ pair by pair, next to a forward pass for every (pair, text).

python -m benchmarks.evaluate                                  # SmolLM2-135M, about five minutes
python -m benchmarks.evaluate --pairs 1 --texts [8] --rounds 1 # a first look

A pair's prefix is 32 tokens a clip and the words around them; after it comes every text that is scored for the pair,
as in the published set, which has 23 of each. The projected tokens are random: they cost what real ones cost. The peers
are what is usually written, one whole prompt at a time through the whole model, and the prompts in batches, with logits
only at answers. The ceiling is a forward pass of each token once, in one sequence, without logits. All are in float32;
scores are compared before times. On a GPU the processor's time means nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, benchmark, measured, races, times
from heads.data.packing import NO_TARGET, Turn
from heads.methods.stepdiff import ROWS_A_BATCH, PairTexts, StepDiff, difference_turn
from heads.models.language_model import LanguageModel
from heads.models.video_lm import Projector, VideoLM
from heads.training.recipe import ProjectorOptions
from stepdiff.common.cli import command
from stepdiff.tasks.testsets import CATEGORIES

CLOSE = 1e-4  # nats a token
MANY = 8  # texts a pair from which on packing must pay
TOKENS, CHANNELS = 16, 64  # of a clip before the projector


@dataclass(frozen=True)
class Options:
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id"""
    pairs: int = 4
    """distinct pairs"""
    texts: tuple[int, ...] = (2, 8, 23)
    """texts that are scored for each pair, one case each"""
    rounds: int = 3
    """measurements of each way, whose median counts"""
    device: str = "cpu"
    """cpu or cuda"""


class RandomTokens:
    """Random features, the same for the same clip."""

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Tensor:
        """Return [K, TOKENS, CHANNELS]."""
        clips = [torch.randn(TOKENS, CHANNELS, generator=torch.Generator().manual_seed(int(key))) for key in keys]
        return torch.stack(clips).to(device)


def pairs_with(texts: int, count: int) -> list[PairTexts]:
    """Return pairs with different texts, whose categories alternate."""
    pairs = []
    for pair in range(count):
        said = (f"uses {number} wooden spoons instead of a red cup for the step" for number in range(texts))
        by_category = tuple((CATEGORIES[at % len(CATEGORIES)], f"{text} {pair}") for at, text in enumerate(said))
        pairs.append(PairTexts((str(2 * pair), str(2 * pair + 1)), by_category))
    return pairs


def one_by_one(model: VideoLM, clips: Tensor, turns: list[Turn]) -> list[float]:
    """Run the whole model for every text of a pair."""
    scores = []
    for turn in turns:
        batch, _ = model.pack([[turn]], clips, True)
        logs = model.lm.model(inputs_embeds=model.embed(batch, clips)).logits.log_softmax(-1)
        places = batch.targets[0] != NO_TARGET
        scores.append(float(logs[0, places].gather(1, batch.targets[0, places, None]).mean()))
    return scores


def in_batches(model: VideoLM, clips: Tensor, turns: list[Turn]) -> list[float]:
    """Run a prompt for every text of a pair, in batches as large as those of pairs in ours."""
    scores: list[float] = []
    for start in range(0, len(turns), ROWS_A_BATCH):
        some = [[turn] for turn in turns[start : start + ROWS_A_BATCH]]
        scores += [value for (value,) in model.log_likelihoods(some, clips.repeat(len(some), 1, 1), mean=True)]
    return scores


def projected(model: VideoLM, pairs: list[PairTexts]) -> Iterator[tuple[Tensor, list[Turn]]]:
    """Yield the projected clips of each pair, and its texts as turns."""
    for pair in pairs:
        yield (
            model.project(RandomTokens().read(pair.pair, model.lm.device)),
            [difference_turn(*t) for t in pair.options],
        )


def forward(model: VideoLM, pairs: list[PairTexts]) -> Callable[[], object]:
    """Return a forward pass of each pair's tokens once: those of one prompt, and the answers of the others."""
    sequences = []
    for clips, turns in projected(model, pairs):
        batches = [model.pack([[turn]], clips, True)[0] for turn in turns]
        count = batches[0].targets.shape[1] + sum(int((batch.targets != NO_TARGET).sum()) for batch in batches[1:])
        sequences.append(torch.randn(1, count, model.lm.width, device=model.lm.device) * model.lm.embedding_std)
    return lambda: [model.lm.model(inputs_embeds=sequence, logits_to_keep=1) for sequence in sequences]


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
    lm = LanguageModel.load(options.language_model, options.device)
    lm.model.float()
    torch.manual_seed(0)
    shape = ProjectorOptions(width=64, heads=4)
    projector = Projector(shape, TOKENS, CHANNELS, lm.width, lm.embedding_std).to(options.device)
    model = VideoLM(lm, projector, shape.outputs)
    naive, batches = "one by one", f"in batches of {ROWS_A_BATCH}"
    ours, ceiling = "pair by pair, ours", "each token once"
    ways: dict[str, Callable[[list[PairTexts]], list[list[float]]]] = {
        naive: lambda pairs: [one_by_one(model, *pair) for pair in projected(model, pairs)],
        batches: lambda pairs: [in_batches(model, *pair) for pair in projected(model, pairs)],
        ours: StepDiff(model, RandomTokens()).score_texts,
    }
    rows: list[Row] = []
    held: list[Row] = []
    apart = 0.0
    for texts in options.texts:
        pairs, case = pairs_with(texts, options.pairs), f"{texts} texts a pair"
        with torch.inference_mode():
            scores = {name: torch.tensor(way(pairs)) for name, way in ways.items()}
            apart = max(apart, *(float((scores[naive] - other).abs().max()) for other in scores.values()))
            assert apart <= CLOSE, f"{case}: scores differ by {apart}"
            calls: dict[str, Callable[[], object]] = {name: partial(way, pairs) for name, way in ways.items()}
            seconds = measured({**calls, ceiling: forward(model, pairs)}, options.rounds, f"{case}, ")
        rows += times(seconds, options.pairs * texts, "text", **{"texts a pair": texts})
        wanted = {naive: 3.0 if texts >= MANY else 1.0, batches: 1.0, ceiling: None}
        held += races(case, seconds, ours, wanted)
    facts = {"language_model": options.language_model, "device": options.device, "pairs": options.pairs}
    return {"rows": rows, "races": held, **facts, "scores_apart": apart}


main = benchmark("evaluate", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
