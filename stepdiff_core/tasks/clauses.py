"""Clauses of captions, split into subject and predicate, and joined: "<candidate> instead of
<reference>".

A clause is split by word lists and a dictionary of inflections (lemminflect), not by a parser:
captions are short and their clauses regular. A text that does not look like a clause is a fragment:
a predicate without a subject. When two clauses are joined, words of the reference that the
candidate has too are left out.

Guarantees
- what follows "instead of" is a noun, an adjective, a preposition, an adverb or a gerund, never a
  finite verb
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

BE = {"is", "are", "was", "were", "am"}
DO = {"does", "do", "did"}
MODALS = {"can", "could", "will", "would", "may", "might", "must", "should"}
AUXILIARIES = {*BE, *DO, *MODALS, "has", "have", "had"}
OBJECTS = {"it", "them", "him", "her"}
DETERMINERS = set("a an the his her their its my your this that these those some no only".split())
ADVERBS = set(
    "also always still just simply then first instead already even now never not only".split()
)
PREPOSITIONS = {"beside"} | set(
    "about above across after against along around as at before behind below beneath between by "
    "down during for from in inside into near of off on onto out over through to toward towards "
    "under until up upon via with without".split()
)
_PEOPLE = {
    "person",
    "man",
    "woman",
    "cook",
    "chef",
    "baker",
    "user",
    "individual",
    "people",
    "someone",
    "somebody",
}
_PRONOUNS = {"he", "she", "it", "they", "i", "you", "we", "this", "that"}
# rarely nouns
_VERBS = {"goes", "gets", "makes", "takes", "puts", "uses", "adds", "comes", "stays", "keeps"}
_SHOWS = set(
    "shows features depicts displays demonstrates includes contains has had takes ends begins "
    "calls".split()
)
_BEFORE_NOUNS = {*DETERMINERS, "both", "two", "three", "several", "all", "most", "many"}
_NEVER_LAST = {*AUXILIARIES} | set(
    "a an the their its my your these of to into onto with from using being and or but then while "
    "whereas not".split()
)
_LEAD = re.compile(r"(?:while|when|after|before|as|once|if)\b[^,]+, ", re.I)
_NEGATIVE = re.compile(r"\b(?:not|no|never|none|nothing|without|neither)\b", re.I)
_ALSO = re.compile(r"\b(?:also|too|as well)\b ?")
_SAME_AGAIN = re.compile(r"\b(?:the same|as well|too)[ .]*$|\bdoes the same\b")
_REASONS = "so|because|which|as|since"
_REASON = re.compile(rf", (?:{_REASONS})\b")
_ASIDE = re.compile(rf", (?:{_REASONS}|who|making|leaving|possibly)\b")


@dataclass(frozen=True)
class Clause:
    """Words of a clause: of its subject, which may be missing, and of its predicate."""

    subject: tuple[str, ...]
    predicate: tuple[str, ...]
    lead: tuple[str, ...] = ()
    """words of a subordinate clause before the subject, such as "while the oil is heating," """
    ended: bool = True
    """false for a text without a full stop, for example if a model reached its limit of tokens"""

    @property
    def about_person(self) -> bool:
        """Return whether the subject is a person, or a pronoun that may mean one."""
        return bool(
            {word.lower() for word in self.subject} & (_PEOPLE | _PRONOUNS - {"it", "this", "that"})
        )

    @property
    def pronoun(self) -> bool:
        """Return whether the subject is a pronoun."""
        return " ".join(self.subject).lower() in _PRONOUNS | {"the one", "those"}

    @property
    def negative(self) -> bool:
        """Return whether the clause says that something is missing or not done."""
        return bool(_NEGATIVE.search(" ".join(self.subject + self.predicate[:4])))

    @property
    def passive(self) -> bool:
        """Return whether the predicate is a form of "be" and a past participle."""
        return (
            len(self.predicate) > 1
            and self.predicate[0].lower() in BE
            and _participle(self.predicate[1])
        )

    @property
    def cut_off(self) -> bool:
        """Return whether the words end in the middle of a phrase."""
        words = self.subject + self.predicate
        never_last = _NEVER_LAST if self.ended else _NEVER_LAST | PREPOSITIONS
        return (
            not words
            or words[-1].lower() in never_last
            or (len(words) < 3 and words[-1].lower() in _PEOPLE)
        )

    def __str__(self) -> str:
        return " ".join(self.lead + self.subject + self.predicate)


def clause(text: str, ended: bool = True) -> Clause:
    """Split a clause before its finite verb; see `Clause.ended`."""
    lead = _LEAD.match(text)
    words = text[lead.end() if lead else 0 :].split()
    at = _verb([word.lower().strip(",") for word in words])
    return Clause(
        tuple(words[:at]), tuple(words[at:]), tuple(lead[0].split()) if lead else (), ended
    )


def _verb(words: list[str]) -> int:
    """Return the place of the finite verb, 0 if none is found."""
    if words[:1] and words[0] in _SHOWS:
        return 0  # the subject is the video
    for at, word in enumerate(words[:8]):
        if at == 0:
            continue
        person = (
            words[at - 1] in _PEOPLE
            or (at == 1 and words[0] in _PRONOUNS)
            or words[:at] == ["the", "one"]
        )
        if word in AUXILIARIES | _VERBS or (
            person and (finite(word) or re.fullmatch(r"[^'’]+s", word))
        ):
            return at
        if (
            person
            and (word in ADVERBS or word.endswith("ly"))
            and at + 1 < len(words)
            and finite(words[at + 1])
        ):
            return at
        if word in PREPOSITIONS - {"of", "in", "on", "with"}:
            break
    for at in range(1, min(6, len(words))):
        word, before = words[at], words[at - 1]
        if (
            words[0] not in _BEFORE_NOUNS
            or before in _BEFORE_NOUNS | PREPOSITIONS
            or word in PREPOSITIONS
        ):
            continue
        if at > 1 and re.search("[^s'’]s$", before) and _lemma(word) == word:
            return at  # "both hands hold the whisk"
        if word.endswith("s") and finite(word):
            plural = at + 1 == len(words) or words[at + 1] in PREPOSITIONS | {"and", "instead"}
            return 0 if plural else at
    return 0


@cache
def _lemmas(word: str, kind: str, lemmatize_oov: bool = True) -> tuple[str, ...]:
    from lemminflect import getLemma  # of an extra, which `--help` of a command does not need

    return tuple(getLemma(word, kind, lemmatize_oov=lemmatize_oov))


def _inflected(word: str, tag: str) -> tuple[str, ...]:
    from lemminflect import getInflection

    return tuple(getInflection(word, tag))


def _lemma(verb: str) -> str | None:
    return next(iter(_lemmas(verb.lower(), "VERB", lemmatize_oov=False)), None)


def finite(word: str) -> bool:
    """Return whether a word may be a finite verb."""
    return word.lower() in AUXILIARIES or (
        not word.lower().endswith("ing") and _lemma(word) is not None
    )


def _participle(word: str) -> bool:
    lemma = _lemma(word)
    return lemma is not None and word.lower() in _inflected(lemma, "VBN")


@cache
def gerund(verb: str) -> str:
    """Return the -ing form of a verb in any of its forms, also of one that the dictionary lacks
    ("spiralizes")."""
    lemma = "be" if verb.lower() in BE else _lemma(verb) or _lemmas(verb.lower(), "VERB")[0]
    return _inflected(lemma, "VBG")[0]


def third_person(verb: str) -> str:
    """Return the form of a verb after a singular noun."""
    forms = {"are": "is", "were": "was", "have": "has", "do": "does"}
    if verb.lower() in forms or _lemma(verb) != verb.lower():
        return forms.get(verb.lower(), verb)
    return _inflected(verb.lower(), "VBZ")[0]


def nominal(predicate: tuple[str, ...]) -> str | None:
    """Return a predicate as a gerund phrase, an adjective or a noun, fit after "instead of"; None
    for a modal."""
    first, *rest = predicate
    low = [word.lower() for word in predicate]
    if low[0] in MODALS:
        return None
    if low[0] in ADVERBS or low[0].endswith("ly"):
        phrase = (
            nominal(tuple(rest))
            if rest and (finite(low[1]) or low[1] in ADVERBS)
            else " ".join(rest)
        )
        return None if phrase is None else f"{first} {phrase}"
    if low[0] in DO and low[1:2] == ["not"] and len(low) > 2:
        return " ".join(("not", gerund(low[2]), *predicate[3:]))
    if low[0] in BE and rest:
        negated = low[1] == "not" and len(rest) > 1
        words = rest[1:] if negated else rest
        words = _gerunds(words if words[0].lower().endswith("ing") else ["being", *words])
        return ("not " if negated else "") + " ".join(words)
    if low[0] in {"has", "have", "had"} and low[1:2] == ["been"] and len(low) > 2:
        return " ".join(predicate[2:])
    if not finite(low[0]) and not (
        low[0].endswith("s") and not _lemmas(low[0], "NOUN", lemmatize_oov=False)
    ):
        return " ".join(predicate)
    return " ".join(_gerunds([gerund(first), *rest]))


def second_verb(words: Sequence[str], at: int) -> bool:
    """Return whether "and" at that place joins another verb, as in "peels and grates the
    carrots"."""
    if words[at].lower() != "and" or at + 1 == len(words):
        return False
    verb, followed = words[at + 1].lower(), [word.lower() for word in words[at + 2 : at + 3]]
    is_verb = verb.endswith("s") and _lemma(verb) is not None
    return is_verb and (
        at == 1 or bool(set(followed) & (OBJECTS | DETERMINERS | {"off", "up", "down", "out"}))
    )


def _gerunds(words: list[str]) -> list[str]:
    """Return the words with the -ing form of each verb after "and"."""
    return [
        gerund(word) if at and second_verb(words, at - 1) else word for at, word in enumerate(words)
    ]


def contrast(candidate: Clause, reference: Clause) -> str | None:
    """Return "<candidate> instead of <reference>".

    Returns:
        None if nothing differs, or if the clauses cannot be joined in a grammatical way.
    """
    if candidate.pronoun and reference.subject and not reference.pronoun:
        if reference.about_person and candidate.passive:
            return None  # "they" are not the person
        candidate = _with_subject(candidate, reference)
    candidate = _with_object(candidate, reference)
    if (
        not candidate.predicate
        or not reference.subject + reference.predicate
        or _agree(candidate, reference)
    ):
        return None
    if {word.lower() for word in candidate.subject or candidate.predicate[:3]} & {"it", "this"} or (
        [word.lower() for word in candidate.subject] == ["those"]
    ):
        return None  # nothing says what "it" is
    after = _after_link(candidate, reference)
    if not after or (clause(after).subject and not re.search(r"\b(?:that|which|who)\b", after)):
        return None  # it would be a finite clause
    comma = "," if _ASIDE.search(str(candidate)) else ""
    return f"{candidate}{comma} {'as opposed to' if candidate.negative else 'instead of'} {after}"


def _agree(candidate: Clause, reference: Clause) -> bool:
    """Return whether both clauses say the same."""
    same_doing = _same(
        *(_ALSO.sub("", " ".join(each.predicate)) for each in (candidate, reference))
    )
    same_subject = reference.about_person or _same(
        " ".join(candidate.subject), " ".join(reference.subject)
    )
    return (same_doing and same_subject) or bool(_SAME_AGAIN.search(str(reference)))


def _with_subject(candidate: Clause, reference: Clause) -> Clause:
    """Put the reference's subject in place of a pronoun, and the verb in the form that it needs."""
    verb = candidate.predicate[:1]
    if reference.predicate[:1] and reference.predicate[0].lower().endswith("s"):
        verb = tuple(third_person(word) for word in verb)
    return replace(candidate, subject=reference.subject, predicate=verb + candidate.predicate[1:])


def _with_object(candidate: Clause, reference: Clause) -> Clause:
    """Put the reference's object in place of "it" and "them" if it is at the same place."""
    mine, other = candidate.predicate, reference.predicate
    at = next((i for i, word in enumerate(mine[:4]) if word.lower() in OBJECTS), 0)
    mass = (
        at
        and at < len(other)
        and not finite(other[at])
        and other[at + 1 : at + 2]
        and other[at + 1] in PREPOSITIONS
    )
    if at == 0 or at >= len(other) or not (mass or other[at].lower() in DETERMINERS):
        return candidate
    ends = (
        i
        for i in range(at + 1, len(other))
        if other[i].strip(",") in PREPOSITIONS or other[i][-2:] in ("ly", "ng")
    )
    noun = other[at : next(ends, len(other))]
    return replace(candidate, predicate=(*mine[:at], *noun, *mine[at + 1 :]))


def _after_link(candidate: Clause, reference: Clause) -> str | None:
    mine, other = candidate.predicate, reference.predicate
    thing = {"it": "it", "they": "them"}.get(" ".join(reference.subject).lower())
    if candidate.about_person and thing and reference.passive and not candidate.passive:
        return " ".join((gerund(other[1]), thing, *other[2:]))  # "it was sprinkled before ..."
    if candidate.about_person and thing == "it" and other[0].lower() in BE:
        return " ".join(other[1:]) if other[1:] and other[1].lower() in DETERMINERS else None
    if not _same_subject(candidate, reference):
        if (
            not other
            or _shared(mine, other) == len(other)
            or _same(" ".join(mine[-len(other) :]), " ".join(other))
        ):
            return " ".join(reference.subject)  # "a blender is used instead of a mixer"
        phrase = nominal(other)
        if phrase is None or (reference.about_person and candidate.passive):
            return phrase  # "no oil is used as opposed to using olive oil"
        return " ".join((*reference.subject, phrase))
    return _difference(mine, other, bool(reference.subject))


def _difference(mine: tuple[str, ...], other: tuple[str, ...], has_subject: bool) -> str | None:
    """Return the reference's predicate after the words that both predicates begin with."""
    at = _shared(mine, other)
    articles = DETERMINERS | {"to", "how"}  # a noun keeps its article, an infinitive its "to"
    while at and (
        at == len(other) or other[at - 1].lower() in articles or other[at].lower() == "of"
    ):
        at -= 1
    rest, first = other[at:], other[at].lower()
    if at == 0:
        # "hand whisk and bowl"
        fragment = not has_subject and not (first.endswith("s") and finite(first))
        return " ".join(rest) if fragment else nominal(rest)
    if first.endswith("ing"):
        return " ".join(rest)
    only_verbs = all(word.endswith("ing") or finite(word) for word in other[:at])
    phrases = first not in PREPOSITIONS | {"how"} and any(
        word in PREPOSITIONS - {"of"} for word in rest[1:]
    )
    repeats = (
        only_verbs and other[at - 1].lower() not in AUXILIARIES and (first in OBJECTS or phrases)
    )
    two_verbs = any(second_verb(rest, i) for i in range(len(rest)))
    reason = _REASON.search(" ".join(mine[at:])) is not None and "," not in " ".join(rest)
    if repeats or two_verbs or reason:
        return nominal(other)  # the verb makes clear where the shared words begin
    return nominal(rest) if first in AUXILIARIES else " ".join(rest)


def _same_subject(candidate: Clause, reference: Clause) -> bool:
    """Return whether the subjects may be the same: "the woman" and "they", but not "a man" and "a
    woman"."""
    if not reference.subject or reference.pronoun:
        return True
    subjects = [
        {word.lower() for word in each.subject} & {"man", "woman"}
        for each in (candidate, reference)
    ]
    other_person = all(subjects) and subjects[0] != subjects[1]
    people = candidate.about_person and reference.about_person and not other_person
    return people or _same(" ".join(candidate.subject), " ".join(reference.subject))


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many words at the beginning are the same."""
    at = 0
    while at < min(len(one), len(other)) and one[at].lower() == other[at].lower():
        at += 1
    return at


def _same(one: str, other: str) -> bool:
    return one.lower().strip(" .,") == other.lower().strip(" .,")
