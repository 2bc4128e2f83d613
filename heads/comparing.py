"""Which places of two clips say the same, asked of a language model at every one of them while it trains.

Two clips' tokens stand behind one another, token j of both for the same words (heads.word_places). A model that answers
"Do the two videos share a similar ...?" has to see first where they agree, and learns that late from one answer a
question. So each token of a clip that stands behind another clip is asked as well: YES where it says the same word
as that clip's token at its place, else NO. What a token says is the word of the language model's own vocabulary that
it is nearest to: no data says it, and no token is added to the row.

Guarantees
- only tokens of clips behind another clip of their row are asked; what the row asked before stays as it was
- YES and NO weigh the same in every batch
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from heads.data.chat import Chat
from heads.data.packing import NO_TARGET, TEXT, Packed
from heads.models.language_model import LanguageModel
from tasks.prompts import NO, YES


class Comparing:
    """Asks the clips of a batch. weight: of a token that is asked, on average; an answer's token has 1."""

    def __init__(self, lm: LanguageModel, weight: float) -> None:
        self.weight, self.answers = weight, answer_ids(lm.chat)
        self.embeddings: Tensor = lm.model.get_input_embeddings().weight
        self.held: tuple[Tensor, Tensor] | None = None

    def ask(self, rows: Packed, clips: Float[Tensor, "C L E"]) -> Packed:
        return with_comparisons(rows, self.nearest_words(clips), self.answers, self.weight)

    @torch.no_grad()
    def nearest_words(self, tokens: Float[Tensor, "C L E"]) -> Int[Tensor, "C L"]:
        """For each token of clips its nearest of the vocabulary's embeddings."""
        table, device = self.embeddings, self.embeddings.device.type
        if self.held is None or table.requires_grad:  # embeddings that stay are cast once
            product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
            self.held = table.to(product), (table.float().square().sum(dim=1) / -2).to(product)
        return functional.linear(tokens, *self.held).argmax(dim=-1)


def answer_ids(chat: Chat) -> tuple[int, int]:
    """The tokens that tell YES from NO: their first ones, behind a space where a tokenizer sets one before both."""
    both = zip(chat.text_ids(YES), chat.text_ids(NO), strict=False)
    return next((yes, no) for yes, no in both if yes != no)


def with_comparisons(rows: Packed, words: Int[Tensor, "C L"], answers: tuple[int, int], weight: float) -> Packed:
    """The rows, their clips' tokens asked too.

    words: of each clip, as the rows number them; answers: the ids of YES and NO; weight: of such a token, on average.
    """
    shown = rows.video != TEXT
    clip, place = rows.video // words.shape[1], rows.video % words.shape[1]
    first = clip.masked_fill(~shown, len(words)).amin(dim=1, keepdim=True)
    asked = shown & (clip > first) & (rows.targets == NO_TARGET)
    clip, place = clip[asked], place[asked]
    same = words[clip, place] == words[clip - 1, place]
    yes, no = answers
    share = torch.where(same, same.float().mean(), (~same).float().mean())
    targets, weights = rows.targets.clone(), rows.weights.clone()
    targets[asked] = torch.where(same, yes, no)
    weights[asked] = weight / (2 * share)
    return replace(rows, targets=targets, weights=weights)
