"""Warm start of the projector: no language model in the graph, so it is cheap.

Each output token is pulled to the language model's own input embedding of one content word of the clip's text. Which
token says which word is left to the cheapest assignment (as in set prediction), so texts may order their words as they
like; tokens are free where a text has fewer words. Loss: cross-entropy over the content words by distance, plus the
squared error, without which a token need only lean towards its word, and the language model cannot read it.

Guarantees
- the texts it is given are the only ones it reads
- the same seed gives the same weights
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from heads.clips import Features
from heads.errors import HeadsError
from heads.language_model import LanguageModel
from heads.paired_qa import draw
from heads.recipe import WarmStart

SHARPNESS = 4.0  # of the softmax over distances, which are in units of the words' variance
FREE_WEIGHT = 0.1  # of an output token that no word of the text falls to
RARE, COMMON = 0.01, 0.5  # a content word stands in more and in fewer of the texts than this


def split_texts(
    catalog: pl.DataFrame, column: str, features: Features, split: str
) -> pl.DataFrame:
    """key, text of one split's clips that have features and a text in `column` of the catalog."""
    missing = {"split", column} - set(catalog.columns)
    if missing:
        raise HeadsError(
            f"the store's catalog has no column {', '.join(sorted(missing))}; featurize with a manifest that has it"
        )
    rows = catalog.filter((pl.col("split") == split) & (pl.col(column).str.len_chars() > 0))
    rows = rows.select("key", pl.col(column).alias("text"))
    return rows.filter(pl.Series(features.has(rows["key"].to_list()), dtype=pl.Boolean))


def word_ids(lm: LanguageModel, text: str) -> set[int]:
    """Tokens of the words of a text, without its case and punctuation."""
    words = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()
    return set(lm.chat.text_ids(" " + " ".join(words)))


def content_words(texts: Sequence[set[int]], others: Iterable[set[int]]) -> list[int]:
    """Tokens neither rare nor common in the texts, which `others`, texts of another style, use as well.

    What only one style says is style: a narrator's "okay so" is no fact about the clip.
    """
    said = Counter(token for text in texts for token in text)
    elsewhere = set[int]().union(*others)
    low, high = RARE * len(texts), COMMON * len(texts)
    return sorted(t for t, count in said.items() if low <= count <= high and t in elsewhere)


def warm_start(
    projector: nn.Module,
    lm: LanguageModel,
    features: Features,
    texts: pl.DataFrame,
    others: Iterable[str],
    options: WarmStart,
    seed: int,
    told: Callable[[int, float], None],
) -> None:
    """Train `projector` in place on texts (key, text); told(step, loss) after each step.

    others: texts of another style about the same world, which tell content words from manner of speaking.
    """
    words = [word_ids(lm, text) for text in texts["text"]]
    content = content_words(words, (word_ids(lm, text) for text in others))
    if not content:
        raise HeadsError("warm start: the texts share no content words with the paired QA; drop warm_start")
    place = {token: i for i, token in enumerate(content)}
    wanted = [np.array(sorted(place[t] for t in text if t in place), np.int64) for text in words]
    free = lm.chat.text_ids(".")[0]
    table = lm.embed(torch.tensor([*content, free], device=lm.device)).float().detach()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=options.learning_rate)
    keys = texts["key"].to_list()
    projector.train()
    for step in range(options.steps):
        torch.manual_seed(seed + step)
        optimizer.param_groups[0]["lr"] = options.learning_rate * min(1.0, (step + 1) / 20)
        chosen = draw(len(keys), min(options.clips, len(keys)), step, seed)
        outputs = projector(features.read([keys[i] for i in chosen]).to(lm.device))
        loss = word_loss(outputs, table, [wanted[i] for i in chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told(step + 1, loss.item())


def word_loss(
    outputs: Float[Tensor, "C L E"], table: Float[Tensor, "V E"], wanted: Sequence[Int[np.ndarray, " _"]]
) -> Float[Tensor, ""]:
    """Loss of the cheapest assignment of each clip's words to its outputs; the table's last word means "free"."""
    distances = torch.cdist(outputs, table) ** 2 / table.var(dim=0).sum()
    costs = -(-SHARPNESS * distances).log_softmax(-1)
    targets = torch.full(costs.shape[:2], len(table) - 1)
    for clip, words in enumerate(wanted):
        slots, places = linear_sum_assignment(costs[clip].detach().cpu().numpy()[:, words])
        targets[clip, slots] = torch.from_numpy(words[places])
    weights = torch.where(targets == len(table) - 1, FREE_WEIGHT, 1.0).to(costs.device)
    chosen = targets.to(costs.device)[..., None]
    losses = costs.gather(2, chosen)[..., 0] + distances.gather(2, chosen)[..., 0]
    return (losses * weights).sum() / weights.sum()
