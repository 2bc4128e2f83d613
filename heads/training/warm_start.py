"""Warm start of the projector, cheap because no language model is in the graph.

Each output token has its own content words, and is trained towards the language model's input embedding of the one
that the clip's text says; it is free if the text says none. Loss: cross-entropy over all content words by distance,
plus the squared error, without which a token need only lean towards its word, and the language model cannot read it.

Content words say what a clip shows. They are found without a list of words: a word counts if two styles agree on it
clip by clip. It is narrated over the clips about which the paired QA says it, and less over others. "Whisk" is such a
word; a narrator's "okay so" is not, nor is a word that fills every question.

`word_places` assigns each content word to one output of a projector; words that exclude each other share one. "Whisk"
and "fork" are rarely said of the same clip, and are said in the same contexts ("a ... in use"), so one output can say
which of them it is; "bowl" is said with both and has another place. With fixed places, a model can compare two clips
place by place.

Guarantees
- it reads only the texts that it is given
- the same seed gives the same weights
- only the given texts and questions decide
- words in similar contexts that are rarely said together share a place before others do
- with enough places, each word has its own
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.spatial.distance import squareform
from torch import Tensor

from common.errors import StepDiffError
from common.streams import torch_seed
from heads.data.clips import Features
from heads.data.packing import Chat
from heads.data.paired_qa import Order, PairQuestions
from heads.models.language_model import autocast
from heads.models.video_lm import VideoLM
from heads.training.loop import rate_factor
from heads.training.recipe import Schedule, WarmStart
from tasks.prompts import VIDEOS

AGREED = 1.8  # least agreement of a content word, in standard errors of chance


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, in order, without punctuation."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def content_words(texts: pl.DataFrame, pairs: Sequence[PairQuestions]) -> list[str]:
    """Return the words, sorted, on which the texts (key, text) and the paired QA about the same clips agree."""
    said = [(key, frozenset(words(text))) for key, text in texts.select("key", "text").iter_rows()]
    best: dict[str, float] = {}
    for others in _words_about_clips(pairs):
        found = agreement([(own, others[key]) for key, own in said if key in others])
        best |= {word: max(value, best.get(word, value)) for word, value in found.items()}
    return sorted(word for word, value in best.items() if value >= AGREED)


def _words_about_clips(pairs: Iterable[PairQuestions]) -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
    """Return the words about each clip, by questions "Which video ...?" that it answers, and by all of its pairs.

    Only the first says which of two clips is meant; the second covers far more words.
    """
    of_one: dict[str, set[str]] = {}
    of_either: dict[str, set[str]] = {}
    for pair in pairs:
        clips = (pair.reference, pair.candidate)
        for question, answer in pair.questions:
            own, answered = words(question), words(answer)
            if answer in VIDEOS:
                of_one.setdefault(clips[VIDEOS.index(answer)], set()).update(own)
            for clip in clips:
                of_either.setdefault(clip, set()).update(own, answered)
    return of_one, of_either


def agreement(rows: Sequence[tuple[Iterable[str], Iterable[str]]]) -> dict[str, float]:
    """Return, for words on both sides, the phi coefficient of occurring on one and on the other, in standard errors of
    independent sides (sqrt(n) phi)."""
    both = sorted({w for own, _ in rows for w in own} & {w for _, other in rows for w in other})
    if not both:
        return {}
    places = {word: i for i, word in enumerate(both)}
    sides = np.zeros((2, len(rows), len(both)))
    for number, row in enumerate(rows):
        for side, found in zip(sides, row, strict=True):
            side[number, [places[w] for w in found if w in places]] = 1
    one, other = sides - sides.mean(axis=1, keepdims=True)
    spread = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    phi = np.divide((one * other).sum(axis=0), spread, out=np.zeros(len(both)), where=spread > 0)
    return dict(zip(both, (phi * len(rows) ** 0.5).tolist(), strict=True))


EDGE = ""  # before and after a text


def word_places(
    texts: Sequence[Sequence[str]], column: Mapping[str, int], said: Bool[np.ndarray, "T V"], places: int
) -> Int[np.ndarray, " V"]:
    """Return the place of each of V words.

    texts: their words in order; column: word -> its number below V; said: whether each text says each word.
    """
    number = said.shape[1]
    if number <= places:
        return np.arange(number)
    distance = 1 - likeness(texts, column) + together(said)
    np.fill_diagonal(distance, 0)
    return fcluster(linkage(squareform(distance, checks=False), "complete"), places, "maxclust") - 1


def together(said: Bool[np.ndarray, "T V"]) -> Float[np.ndarray, "V V"]:
    """Return the share of the rarer word's texts that say both words."""
    count = said.sum(axis=0)
    return (said.T.astype(float) @ said) / np.maximum(np.minimum.outer(count, count), 1)


def likeness(texts: Sequence[Sequence[str]], column: Mapping[str, int]) -> Float[np.ndarray, "V V"]:
    """Return the cosine of two words' contexts, weighted by positive pointwise mutual information."""
    counts = Counter((column[word], around) for text in texts for word, around in surroundings(text) if word in column)
    contexts = {around: i for i, around in enumerate(dict.fromkeys(around for _, around in counts))}
    rows = np.array([word for word, _ in counts])
    columns = np.array([contexts[around] for _, around in counts])
    met = np.fromiter(counts.values(), float)
    shape = (max(column.values()) + 1, len(contexts))
    of_word, of_context = np.bincount(rows, met, shape[0]), np.bincount(columns, met)
    lift = np.log(met * met.sum() / (of_word[rows] * of_context[columns]))
    weights = coo_array((np.maximum(lift, 0), (rows, columns)), shape).tocsr()
    norms = np.maximum(np.sqrt(weights.multiply(weights).sum(axis=1)), 1e-9)
    return (weights @ weights.T).toarray() / np.outer(norms, norms)


def surroundings(text: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each word of a text with its contexts: one and two words on each side, and one on both sides."""
    padded = [EDGE, EDGE, *text, EDGE, EDGE]
    for i in range(2, len(padded) - 2):
        before, after = padded[i - 2 : i], padded[i + 1 : i + 3]
        left, right = before[1], after[0]
        for around in (("<", left), (">", right), ("<", *before), (">", *after), ("<>", left, right)):
            yield padded[i], around


SHARPNESS = 4.0  # of the softmax over distances, which are in units of the words' variance
FREE_WEIGHT = 0.1  # of a free output token


def first_token(chat: Chat, word: str) -> int:
    """Return the first token of a word within a text, skipping a token that is only the space before it."""
    ids = chat.text_ids(f" {word}")
    return next((token for token in ids if chat.tokenizer.decode([token]).strip()), ids[0])


def warm_start(
    model: VideoLM,
    features: Features,
    texts: pl.DataFrame,
    pairs: Sequence[PairQuestions],
    options: WarmStart,
    precision: str,
    seed: int,
    report: Callable[[int, float], None],
) -> None:
    """Train the model's projector in place on texts (key, text); report(step, loss) is called after each step.

    pairs: paired QA about the same clips, which separates content words from manner of speaking.
    """
    chat, device = model.lm.chat, model.lm.device
    first = {word: first_token(chat, word) for word in content_words(texts, pairs)}
    if not first:
        raise StepDiffError("warm start: the texts share no content words with the paired QA; drop warm_start")
    content = sorted(set(first.values()))
    place = {token: i for i, token in enumerate(content)}
    column = {word: place[token] for word, token in first.items()}
    targets = torch.from_numpy(word_targets([words(text) for text in texts["text"]], column, model.outputs)).to(device)
    table = model.lm.embed(torch.tensor([*content, chat.text_ids(".")[0]], device=device)).float().detach()
    optimizer = torch.optim.AdamW(model.projector.parameters(), lr=options.learning_rate)
    keys = texts["key"].to_list()
    schedule, order = Schedule(options.steps, warmup=20, decay=1.0), Order(len(keys), seed, "warm start order")
    model.train()
    for step in range(options.steps):
        torch.manual_seed(torch_seed(seed, "warm start leave-out", step))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate_factor(schedule, step)
        chosen = order.draw(min(options.clips, len(keys)), step)
        tokens = features.read([keys[i] for i in chosen], device)
        with autocast(device.type, precision):
            outputs = model.project(tokens, options.leave_out).float()
        loss = word_loss(outputs, table, targets[chosen])
        value = loss.item()
        if not math.isfinite(value):
            raise StepDiffError(f"warm start: step {step + 1} has loss {value}; lower warm_start.learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step + 1, value)


def word_targets(texts: Sequence[Sequence[str]], column: Mapping[str, int], outputs: int) -> Int[np.ndarray, "T L"]:
    """Return each output token's target for each text: the rarest of its words in the text, or V if it is free.

    texts: their words in order; column: content word -> its number below V.
    """
    said = np.zeros((len(texts), max(column.values()) + 1), bool)
    for number, text in enumerate(texts):
        said[number, [column[word] for word in text if word in column]] = True
    place = word_places(texts, column, said, outputs)
    targets = np.full((len(said), outputs), said.shape[1])
    for word in np.argsort(-said.sum(axis=0), kind="stable"):
        targets[said[:, word], place[word]] = word
    return targets


def word_loss(
    outputs: Float[Tensor, "C L E"], table: Float[Tensor, "V E"], targets: Int[Tensor, "C L"]
) -> Float[Tensor, ""]:
    """Return the mean loss of output tokens against their words' embeddings; the table's last word means "free"."""
    distances = torch.cdist(outputs, table) ** 2 / table.var(dim=0).sum()
    costs = distances - (-SHARPNESS * distances).log_softmax(-1)
    losses = costs.gather(2, targets[..., None])[..., 0]
    weights = torch.where(targets == len(table) - 1, FREE_WEIGHT, 1.0)
    return (losses * weights).sum() / weights.sum()
