"""Joining two clauses: "<candidate> instead of <reference>", without the words that the two share.

Guarantees
- what follows "instead of" is a noun, an adjective, a preposition, an adverb or a gerund, never a finite verb
- words of the reference clause are left out only where the candidate clause has them too
"""

import re
from dataclasses import replace

from stepdiff.tasks.clauses import (
    AUXILIARIES,
    BE,
    DETERMINERS,
    OBJECTS,
    PREPOSITIONS,
    Clause,
    clause,
    finite,
    gerund,
    nominal,
    second_verb,
    third_person,
)

_ALSO = re.compile(r"\b(?:also|too|as well)\b ?")
_SAME_AGAIN = re.compile(r"\b(?:the same|as well|too)[ .]*$|\bdoes the same\b")
_REASONS = "so|because|which|as|since"
_REASON = re.compile(rf", (?:{_REASONS})\b")
_ASIDE = re.compile(rf", (?:{_REASONS}|who|making|leaving|possibly)\b")


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
    if not candidate.predicate or not reference.subject + reference.predicate or _agree(candidate, reference):
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
    same_doing = _same(*(_ALSO.sub("", " ".join(each.predicate)) for each in (candidate, reference)))
    same_subject = reference.about_person or _same(" ".join(candidate.subject), " ".join(reference.subject))
    return (same_doing and same_subject) or bool(_SAME_AGAIN.search(str(reference)))


def _with_subject(candidate: Clause, reference: Clause) -> Clause:
    """Put the reference's subject in place of a pronoun, and the verb in the form that it needs."""
    verb = candidate.predicate[:1]
    if reference.predicate[:1] and reference.predicate[0].lower().endswith("s"):
        verb = tuple(third_person(word) for word in verb)
    return replace(candidate, subject=reference.subject, predicate=verb + candidate.predicate[1:])


def _with_object(candidate: Clause, reference: Clause) -> Clause:
    """Put the reference's object in place of "it" and "them", where it is at the same place."""
    mine, other = candidate.predicate, reference.predicate
    at = next((i for i, word in enumerate(mine[:4]) if word.lower() in OBJECTS), 0)
    mass = at and at < len(other) and not finite(other[at]) and other[at + 1 : at + 2] and other[at + 1] in PREPOSITIONS
    if at == 0 or at >= len(other) or not (mass or other[at].lower() in DETERMINERS):
        return candidate
    ends = (
        i for i in range(at + 1, len(other)) if other[i].strip(",") in PREPOSITIONS or other[i][-2:] in ("ly", "ng")
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
        if not other or _shared(mine, other) == len(other) or _same(" ".join(mine[-len(other) :]), " ".join(other)):
            return " ".join(reference.subject)  # "a blender is used instead of a mixer"
        phrase = nominal(other)
        if phrase is None or (reference.about_person and candidate.passive):
            return phrase  # "no oil is used as opposed to using olive oil"
        return " ".join((*reference.subject, phrase))
    return _difference(mine, other, bool(reference.subject))


def _difference(mine: tuple[str, ...], other: tuple[str, ...], has_subject: bool) -> str | None:
    """Return what the reference's predicate has after the words that both predicates begin with."""
    at = _shared(mine, other)
    articles = DETERMINERS | {"to", "how"}  # a noun keeps its article, an infinitive its "to"
    while at and (at == len(other) or other[at - 1].lower() in articles or other[at].lower() == "of"):
        at -= 1
    rest, first = other[at:], other[at].lower()
    if at == 0:
        fragment = not has_subject and not (first.endswith("s") and finite(first))  # "hand whisk and bowl"
        return " ".join(rest) if fragment else nominal(rest)
    if first.endswith("ing"):
        return " ".join(rest)
    only_verbs = all(word.endswith("ing") or finite(word) for word in other[:at])
    phrases = first not in PREPOSITIONS | {"how"} and any(word in PREPOSITIONS - {"of"} for word in rest[1:])
    repeats = only_verbs and other[at - 1].lower() not in AUXILIARIES and (first in OBJECTS or phrases)
    two_verbs = any(second_verb(rest, i) for i in range(len(rest)))
    reason = _REASON.search(" ".join(mine[at:])) is not None and "," not in " ".join(rest)
    if repeats or two_verbs or reason:
        return nominal(other)  # the verb makes clear where the shared words begin
    return nominal(rest) if first in AUXILIARIES else " ".join(rest)


def _same_subject(candidate: Clause, reference: Clause) -> bool:
    """Return whether the subjects may be the same: "the woman" and "they", but not "a man" and "a woman"."""
    if not reference.subject or reference.pronoun:
        return True
    subjects = [{word.lower() for word in each.subject} & {"man", "woman"} for each in (candidate, reference)]
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
