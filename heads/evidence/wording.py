"""The content of texts, before any feature is read: their terms, which video each is about, and
which clips they name.

Terms are phrases of one to four words. Text is split at punctuation, and a term does not cross it.
"Video 1" and "first video", "Video 2" and "second video" are mentions, not words. The rest of a
text's grammar is learned: `side` predicts from the last mention and the words around a term which
of the two videos the term is about. It is a ridge regression over counts, so it knows "instead of"
and "skips" as far as the answers have them.

Labels of a clip are the terms of its narration. Paired questions correct them: "Which video ...?"
labels the terms of the question in both clips, and an answer the terms that it says of each video,
or of both. `side` returns the video. It is learned from terms that the narration of exactly one of
two clips has, and only from terms that answers have more often if one of the narrations has them.
Which answers are about both ("What do they have in common?", "first one, then the other") is
learned from the words of question and answer, and from the terms that both narrations have.

Guarantees
- a text is read from left to right, and each word is part of at most one occurrence, the longest
  known term
- every term is in enough narrations or in enough questions and answers, and in at most nine of ten
  narrations
- memory depends on the number of paired questions and on CLIPS, not on the number of clips
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from math import sqrt
from typing import Literal

import numpy as np
import scipy.sparse as sparse

from heads.data.paired_qa import PairQuestions, kind
from stepdiff_core.errors import StepDiffError, some
from stepdiff_core.progress import say
from stepdiff_core.tasks.clauses import AUXILIARIES, DETERMINERS, OBJECTS, PREPOSITIONS
from stepdiff_core.tasks.prompts import VIDEOS

CLIPS = 2**17
"""clips whose narration the terms are counted in, the first of the catalog"""
SENTENCES = 2**10
"""sentences of a category, the first ones of its answers"""
OF_ANSWERS = ("sides", "both", "sentences", "categories")
"""fields of Wording that a head stores as they are"""
_MOST_COMMON = 0.9  # share of the narrations
# standard errors by which an answer has a term more often where one narration has it
_FOLLOWS = 4.0
_CERTAIN = 0.3  # sum of signs from which questions and answers decide a label
_OF_CATEGORY = 0.6  # share of a term's occurrences in answers
LONGEST = 4
"""words of a term"""
NEAR = 4
"""words before a term, and words after it, that tell its side"""
_FUNCTION = {*AUXILIARIES, *DETERMINERS, *OBJECTS, *PREPOSITIONS} | set(
    "and or but nor not than while whereas also too so then there here he she they we you i me us "
    "who which what be been being someone somebody person people".split()
)
"""words that name nothing: no term begins or ends with one"""
_TOKEN = re.compile(
    r"(?P<one>\b(?:video (?:1|one)|first video)\b)|(?P<two>\b(?:video (?:2|two)|second video)\b)"
    r"|(?P<word>[^\W_][\w'-]*)|[^\w\s]"
)
_OF_SECOND = re.compile(r"\bin (?:video (?:2|two)|the second (?:video|one)), (.+)", re.IGNORECASE)
_OF_TEXT = re.compile(r"\s+differences?\b", re.IGNORECASE)
_GAP = "_"  # takes the place of a term among the words before another
_LEAST = 5  # occurrences of a feature of a side
_PENALTY = 3.0
_SLOPE = 2.5  # the regression shrinks towards 0
# share of narrated terms in both narrations, above that of all answers; narrations omit much
_BOTH = 0.1
LAST_MENTIONED = {"video 1": -1.0, "video 2": 1.0} | {
    f"video {video} clause {word}": sign
    for video, sign in ((1, 2.0), (2, -2.0))
    for word in ("instead", "rather", "than", "not", "without", "unlike")
}
"""sides where too few answers teach them: a term is about the video that is mentioned last before
it, or the other one after "instead of" and its like"""
ANY = "Any"
"""category of all words where no answer says which category a word is of"""


def segments(text: str) -> Iterator[list[str]]:
    """Yield the words of each part of a text between punctuation and mentions, in lower case."""
    words: list[str] = []
    for token in _TOKEN.finditer(text.lower()):
        if token["word"]:
            words.append(token[0])
        elif words:
            yield words
            words = []
    if words:
        yield words


def terms_of(text: str) -> set[str]:
    """Return all phrases of one to LONGEST words that neither begin nor end with a function
    word."""
    return {
        " ".join(words[start:end])
        for words in segments(text)
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST, len(words)) + 1)
        if not _FUNCTION.intersection((words[start], words[end - 1]))
    }


@dataclass(frozen=True)
class Occurrence:
    """One term in a text about a pair."""

    term: str
    video: int
    """the last one mentioned before it, 1 or 2; 0: none"""
    before: tuple[str, ...]
    """words and marks since that mention, at most NEAR, with "_" for terms"""
    after: tuple[str, ...] = ()
    """words and marks up to the next term or mention, at most NEAR"""
    follows: str = "end"
    """kind of the next item: other, term, mention or end"""
    clause: frozenset[str] = frozenset()
    """words since the last mark or mention"""

    def features(self) -> set[str]:
        """Return the features that predict the side: its context, and the same context with the
        video."""
        context = {f"{place} {word}" for place, word in enumerate(reversed(self.before))}
        context |= {f"any {word}" for word in self.before} | {
            f"clause {word}" for word in self.clause
        }
        context |= {f"+{place} {word}" for place, word in enumerate(self.after)}
        context |= {f"+any {word}" for word in self.after}
        if len(self.before) > 1:
            context.add(" ".join(("pair", *self.before[-2:])))
        if not self.after:
            context.add(f"then {self.follows}")
        return (
            {f"video {self.video}"} | context | {f"video {self.video} {name}" for name in context}
        )

    def side(self, weights: Mapping[str, float]) -> float:
        """Return the video that it is about, from -1 (surely Video 1) to 1 (surely Video 2).
        weights: Wording.sides."""
        side = weights.get("", 0.0) + sum(
            weights.get(name, 0.0) for name in sorted(self.features())
        )
        return float(np.clip(_SLOPE * side, -1, 1))


_Item = tuple[Literal["mention", "term", "other"], str, int, int]
"""kind, words, and their begin and end in the text"""


def _items(text: str, terms: Collection[str]) -> list[_Item]:
    """Return the mentions, the longest known terms, and the other words and marks of a text, in
    order."""
    items: list[_Item] = []
    tokens = list(_TOKEN.finditer(text.lower()))
    words = [token["word"] for token in tokens]
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token["one"] or token["two"]:
            items.append(("mention", "1" if token["one"] else "2", *token.span()))
            place += 1
            continue
        for length in range(LONGEST, 0, -1):
            phrase = words[place : place + length]
            if len(phrase) == length and None not in phrase and (term := " ".join(phrase)) in terms:
                place += length
                items.append(("term", term, token.start(), tokens[place - 1].end()))
                break
        else:
            items.append(("other", token[0], *token.span()))
            place += 1
    return items


def _read(items: Sequence[_Item], video: int) -> Iterator[Occurrence]:
    """Yield the terms of a text with their contexts."""
    before: list[str] = []
    clause: list[str] = []
    for place, (sort, value, *_) in enumerate(items):
        if sort == "mention":
            video, before, clause = int(value), [], []
        elif sort == "other":
            before.append(value)
            clause = [*clause, value] if value[0].isalnum() else []
        else:
            after = [
                name
                for _, name, *_ in takewhile(lambda item: item[0] == "other", items[place + 1 :])
            ][:NEAR]
            follows = items[place + 1][0] if place + 1 < len(items) else "end"
            yield Occurrence(
                value, video, tuple(before[-NEAR:]), tuple(after), follows, frozenset(clause)
            )
            before.append(_GAP)


def occurrences(text: str, terms: Collection[str], video: int = 0) -> list[Occurrence]:
    """Return the known terms of a text in order. video: the one that the text is about before its
    first mention."""
    return list(_read(_items(text, terms), video))


def pieces(text: str, terms: Collection[str]) -> list[tuple[str, str]]:
    """Split a text into its known terms and the text between them: parts with their term, "" if it
    has none.

    A word before "difference", such as "main", is about the text: it is no term.
    """
    if len(text.lower()) != len(text):  # "İ": the places of terms are those of another text
        return [(text, "")]
    parts, end = [], 0
    for sort, term, start, stop in _items(text, terms):
        if sort == "term" and not _OF_TEXT.match(text, stop):
            parts += [(text[end:start], ""), (text[start:stop], term)]
            end = stop
    return [(part, term) for part, term in [*parts, (text[end:], "")] if part]


def regression(rows: Sequence[set[str]], labels: Sequence[float]) -> dict[str, float]:
    """Fit a ridge regression; return the weight of each feature, "" is the constant."""
    counts = Counter(feature for row in rows for feature in row)
    # the same in any process
    features = ["", *sorted(feature for feature, count in counts.items() if count >= _LEAST)]
    columns = {feature: place for place, feature in enumerate(features)}
    cells = [
        (row, columns[name])
        for row, names in enumerate(rows)
        for name in ("", *sorted(names))
        if name in columns
    ]
    at = tuple(np.array(cells, int).reshape(-1, 2).T)
    table = sparse.csr_matrix((np.ones(len(cells)), at), (len(rows), len(columns)))
    gram = (table.T @ table).toarray() + _PENALTY * np.eye(len(columns))
    weights = np.linalg.solve(gram, table.T @ np.asarray(labels, float))
    return dict(zip(columns, weights.tolist(), strict=True))


@dataclass(frozen=True)
class Wording:
    terms: tuple[str, ...]
    narrated: tuple[str, ...]
    """terms that enough narrations have; the others are only in questions and answers"""
    followed: tuple[str, ...]
    """terms that answers take from visible content; they label clips"""
    sides: Mapping[str, float]
    """weights of `Occurrence.side`"""
    both: Mapping[str, float]
    """weights of `is_about_both`"""
    sentences: Mapping[str, Sequence[str]]
    """category -> statements of its answers about Video 2"""
    categories: Mapping[str, Mapping[str, float]]
    """category -> term -> share of its answers that have the term"""

    @cached_property
    def columns(self) -> dict[str, int]:
        """Return the place of each term."""
        return {term: place for place, term in enumerate(self.terms)}

    def signs(self, pairs: Iterable[PairQuestions]) -> dict[str, dict[int, float]]:
        """Return what questions and answers say of clips: clip -> place of a term -> sum of
        signs."""
        of_clips: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        followed, narrated = set(self.followed), set(self.narrated)
        for pair, question, answer, _ in _asked(pairs):
            if answer in VIDEOS:
                side, other = (1.0, -1.0) if answer == VIDEOS[1] else (-1.0, 1.0)
                named = [
                    (term, side, other)
                    for term in sorted(terms_of(question).intersection(self.columns))
                ]
            elif is_about_both(self.both, question, answer, narrated):
                named = [(one.term, 1.0, 1.0) for one in occurrences(answer, followed)]
            else:
                sides = ((one.term, one.side(self.sides)) for one in occurrences(answer, followed))
                named = [(term, side, -side) for term, side in sides]
            for term, of_candidate, of_reference in named:
                of_clips[pair.candidate][self.columns[term]] += of_candidate
                of_clips[pair.reference][self.columns[term]] += of_reference
        return of_clips

    def targets(
        self, clips: Sequence[tuple[str, str]], signs: Mapping[str, Mapping[int, float]]
    ) -> sparse.csr_matrix:
        """Return the labels [clips, terms], from 0 to 1, of clips (key, narration)."""
        rows, columns, values = [], [], []
        for row, (key, text) in enumerate(clips):
            label = {self.columns[term]: 1.0 for term in terms_of(text) if term in self.columns}
            for column, sign in signs.get(key, {}).items():
                if abs(sign) > _CERTAIN:
                    label[column] = (float(np.clip(sign, -1, 1)) + 1) / 2
            rows += [row] * len(label)
            columns += sorted(label)
            values += [label[column] for column in sorted(label)]
        return sparse.csr_matrix((values, (rows, columns)), (len(clips), len(self.terms)))


def learn(
    texts: Iterable[str],
    of_clip: Mapping[str, str],
    pairs: Sequence[PairQuestions],
    least: int,
    most: int,
) -> Wording:
    """Choose the terms and learn their sides and categories.

    texts: narrations of training clips; of_clip: narration of each clip of the pairs that has one;
    least: narrations or questions and answers, that have a term; most: terms, the most frequent
    ones.

    Raises:
        StepDiffError: The texts have no such term.
    """
    counts, clips = Counter[str](), 0
    for text in islice(texts, CLIPS):
        counts.update(terms_of(text))
        clips += 1
    answered, questions = Counter[str](), list(_asked(pairs))
    for _, question, answer, _ in questions:
        answered.update(terms_of(question if answer in VIDEOS else answer))
    most_common = _MOST_COMMON * clips
    often = [
        term
        for term, count in (counts | answered).items()
        if count >= least and counts[term] <= most_common
    ]
    terms = sorted(often, key=lambda term: (-counts[term] - answered[term], term))[:most]
    if not terms:
        raise StepDiffError(
            f"no word is in {least} narrations of training clips or in {least} answers: give more "
            "clips, or a smaller --least"
        )
    narrated = {term for term in terms if counts[term] >= least}
    errors, answers = _follow(questions, of_clip, narrated)
    followed = tuple(sorted(term for term in narrated if errors[term] > _FOLLOWS))
    examples, labels = [], []
    texts_of: list[set[str]] = []
    in_both: list[float] = []
    for pair, question, answer, _ in questions:
        if answer not in VIDEOS:
            reference, candidate = (
                terms_of(of_clip.get(clip, "")) for clip in (pair.reference, pair.candidate)
            )
            words = _words_of(question, answer, narrated)
            for one in occurrences(answer, set(followed)):
                narrations = (one.term in candidate) + (one.term in reference)
                if narrations == 1:
                    examples.append(one)
                    labels.append(1.0 if one.term in candidate else -1.0)
                if narrations:
                    texts_of.append(words)
                    in_both.append(narrations - 1.0)
    sides = regression([one.features() for one in examples], labels) if examples else LAST_MENTIONED
    usual = sum(in_both) / max(len(in_both), 1)
    both = regression(texts_of, [share - usual for share in in_both]) if texts_of else {}
    if pairs and not examples:
        say(
            f"no answer names {some(followed)} of exactly one clip"
            if followed
            else _too_few(errors, answers)
        )
    sentences = _sentences(questions, both, narrated)
    categories = _categories(questions, set(terms))
    if not pairs:
        categories = {ANY: {term: counts[term] / clips for term in sorted(narrated)}}
    return Wording(
        tuple(terms), tuple(sorted(narrated)), followed, sides, both, sentences, categories
    )


def _too_few(errors: Mapping[str, float], answers: int) -> str:
    """Return why answers do not show which video a word is about, and how many more may."""
    nearest = sorted((-error, term) for term, error in errors.items() if error > 0)[:3]
    words = ", ".join(f"{term} ({-error:.1f})" for error, term in nearest)
    why = (
        f"{answers} answers about two narrated clips show of no word that they take it from the "
        "narration"
    )
    if nearest:
        # a standard error falls with the root of their number
        enough = answers * (_FOLLOWS / -nearest[0][0]) ** 2
        why += (
            f": {_FOLLOWS:g} standard errors count, and nearest are {words}; about {enough:,.0f} "
            "answers may do"
        )
    return (
        f"{why}. Until then a word is about the video that is mentioned last (or the other one, "
        'after "instead of" and its like), and narrations alone label clips'
    )


def is_about_both(
    weights: Mapping[str, float], question: str, text: str, narrated: Collection[str]
) -> bool:
    """Return whether a text says what it names of both clips. weights: `Wording.both`; question:
    empty if unknown."""
    words = _words_of(question, text, narrated)
    return weights.get("", 0.0) + sum(weights.get(word, 0.0) for word in sorted(words)) > _BOTH


def _words_of(question: str, answer: str, terms: Collection[str]) -> set[str]:
    """Return the words of a question, and those and the marks of its answer outside its terms."""
    of_question = {f"question {token[0]}" for token in _TOKEN.finditer(question.lower())}
    return of_question | {
        f"answer {value}" for sort, value, *_ in _items(answer, terms) if sort != "term"
    }


_Asked = tuple[PairQuestions, str, str, str]


def _asked(pairs: Iterable[PairQuestions]) -> Iterator[_Asked]:
    """Yield pair, question, answer and category of questions that a video or a text answers."""
    for pair in pairs:
        for turn in pair.turns:
            if kind(turn.answer) != "decision":
                yield pair, turn.question, turn.answer, turn.about


def _follow(
    questions: Sequence[_Asked], of_clip: Mapping[str, str], terms: set[str]
) -> tuple[dict[str, float], int]:
    """Return by how many standard errors answers have each term more often if the narration of
    exactly one clip has it (a z-test), and the number of answers."""
    one, both, said_of_one, said_of_none, answers = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        Counter[str](),
        0,
    )
    for pair, _, answer, _ in questions:
        if answer in VIDEOS or not {pair.reference, pair.candidate} <= of_clip.keys():
            continue
        answers += 1
        reference, candidate = (
            terms_of(of_clip[clip]) & terms for clip in (pair.reference, pair.candidate)
        )
        answered = terms_of(answer) & terms
        one.update(reference ^ candidate)
        both.update(reference & candidate)
        said_of_one.update(answered & (reference ^ candidate))
        said_of_none.update(answered - reference - candidate)
    errors: dict[str, float] = {}
    for term in terms:
        none = answers - one[term] - both[term]
        share_of_one, share_of_none = (
            (said_of_one[term] + 0.5) / (one[term] + 1),
            (said_of_none[term] + 0.5) / (none + 1),
        )
        share = (said_of_one[term] + said_of_none[term] + 1) / (one[term] + none + 2)
        error = sqrt(share * (1 - share) * (1 / (one[term] + 1) + 1 / (none + 1)))
        errors[term] = (share_of_one - share_of_none) / error
    return errors, answers


def _sentences(
    questions: Sequence[_Asked], both: Mapping[str, float], narrated: Collection[str]
) -> dict[str, list[str]]:
    """Return category -> the first SENTENCES that its answers say of Video 2 alone, with a narrated
    term: the words after "in Video 2," up to the end of the answer."""
    of_category = defaultdict[str, dict[str, None]](dict)
    for _, question, answer, category in questions:
        sentences = of_category[category]
        match = _OF_SECOND.search(answer)
        if (
            match
            and category
            and len(sentences) < SENTENCES
            and not is_about_both(both, question, answer, narrated)
        ):
            sentence = match[1].strip().removesuffix(".")
            sorts = {sort for sort, *_ in _items(sentence, narrated)}
            if "term" in sorts and "mention" not in sorts and ". " not in sentence:
                sentences[sentence] = None
    return {
        category: list(sentences)
        for category, sentences in sorted(of_category.items())
        if sentences
    }


def _categories(questions: Sequence[_Asked], terms: set[str]) -> dict[str, dict[str, float]]:
    """Return category -> term -> share of its answers that have the term, for the terms that belong
    to it."""
    answers, counts = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for _, question, answer, category in questions:
        if category:
            answers[category] += 1
            counts[category].update(terms_of(question if answer in VIDEOS else answer) & terms)
    shares = {
        c: {term: n / answers[c] for term, n in sorted(of_terms.items())}
        for c, of_terms in sorted(counts.items())
    }
    total = Counter[str]()
    for of_terms in shares.values():
        total.update(of_terms)
    return {
        c: {t: share for t, share in of_terms.items() if share >= _OF_CATEGORY * total[t]}
        for c, of_terms in shares.items()
    }
