"""Which predicted difference is about which statement, and which of them state opposites.

Two ways, whose figures are never mixed:

- a language model does both, six pairs in a question about opposites, as the authors do with GPT-4o
- ours: Hungarian matching on the cosine of sentence embeddings, at least THRESHOLD; opposites by an entailment model,
  or by the language model where no entailment model is given

The prompts are the authors' if their eval_viddiff.py is in the folder, else ours.

Guarantees
- predictions_match_statements_one_to_one
- an_answer_of_another_form_is_an_error
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.judging import Inquiry, Judge, answers, json_in, sha256
from stepdiff.tasks.benchmarks.published_files import read_whole
from stepdiff.tasks.benchmarks.viddiff.differences import Difference
from stepdiff.tasks.benchmarks.viddiff.files import Sample
from stepdiff.tasks.captions import Embed
from stepdiff.tasks.spec import Asked

THRESHOLD = 0.5
"""least cosine of a match; ours, chosen without the benchmark's data"""
TOGETHER = 6
"""pairs of statements in one question about opposites, as published"""
MATCHING = (
    'Statements compare how two people perform one action: "{action_description}". Which statements of two lists are '
    "about the same visible difference?\nList 0: {differences0}\nList 1: {differences1}\n"
    "For each key of list 0 ({dict0_keys}) give the key of the statement in list 1 ({dict1_keys}) that is about the "
    'same difference, in whatever words and whichever direction, or "None". Use a key of list 1 once at most. Answer '
    'with a JSON object alone, from "0" to "{final}" where those are the keys, such as {"0": "2", "1": "None"}.'
)
"""ours; the fields are the authors'"""
OPPOSITES = (
    'Each pair below holds two statements about one thing. Write for each pair "1" if they say the opposite of each '
    'other, and "0" if they say the same, if only to another degree or in other words. Answer with a JSON object '
    'alone, such as {"results": ["0", "1"]}, with one entry for each pair, in their order.\nPairs: {statements}'
)
"""ours; the field is the authors'"""
AUTHORS = "eval_viddiff.py"
_NAMES = {"matching": "prompt_open_eval_matching", "opposites": "prompt_open_eval_check_opposite"}
ERROR = "error"
FLIPPED = {"a": "b", "b": "a"}

Matches = Sequence[Mapping[str, int | str | None]]
"""for each pair: statement's key -> place of its prediction, None, or ERROR"""
Letters = dict[str, str | None]
"""statement's key -> the video of its match (a, b), None without a match, or ERROR"""


def judge_prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Return the judge's prompts and whose they are. Raises StepDiffError: the authors' file lacks one."""
    path = folder / AUTHORS
    if not path.is_file():
        return {"matching": MATCHING, "opposites": OPPOSITES}, "ours"
    try:
        body = ast.parse(read_whole(path, "the authors' repository").decode()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise StepDiffError(f"{path}: cannot be read as Python ({error}); get it again or remove it") from None
    texts = {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for name in _NAMES.values():
        if name not in texts:
            raise StepDiffError(f"{path}: has no text {name}; get it again or remove it")
    return {own: texts[name] for own, name in _NAMES.items()}, f"the authors' ({AUTHORS})"


def match_by_model(
    asked: Asked, samples: Sequence[Sample], written: Sequence[Sequence[Difference]], judge: Judge
) -> Matches:
    template = asked.prompts["matching"]
    pairs = [place for place, own in enumerate(written) if own and samples[place].statements]
    inquiries = []
    for place in pairs:
        statements = {key: own.description for key, own in samples[place].statements.items()}
        predicted = {str(number): own.description for number, own in enumerate(written[place])}
        fields = {
            "final": str(len(statements) - 1),
            "action_description": samples[place].action,
            "differences0": json.dumps(statements),
            "differences1": json.dumps(predicted),
            "dict0_keys": json.dumps(sorted(statements, key=_number)),
            "dict1_keys": json.dumps(list(predicted)),
        }
        inquiries.append(Inquiry(f"{samples[place].key} matching", _message(template, fields)))
    said = dict(
        zip(pairs, answers(judge, inquiries, {"prompt": sha256(template), "checklist": asked.digest}), strict=True)
    )
    return [
        parse_matching(said[place], list(own.statements), len(written[place]))
        if place in said
        else dict.fromkeys(own.statements)
        for place, own in enumerate(samples)
    ]


def parse_matching(text: str | None, keys: Sequence[str], predicted: int) -> dict[str, int | str | None]:
    """Return the place of the prediction that matches each statement.

    A key that the answer lacks is an error, as are all keys of an answer without JSON. A prediction that does not exist
    is no match; one that is used again stays with the first statement, in the order of the keys.
    """
    found = json_in(text or "")
    if isinstance(found, dict) and isinstance(found.get("matches"), list):  # the authors' structured answer
        items = [item for item in found["matches"] if isinstance(item, dict)]
        found = {str(item.get("key_dict0")): item.get("key_dict1") for item in items}
    if not isinstance(found, dict):
        return dict.fromkeys(keys, ERROR)
    free = {str(place): place for place in range(predicted)}
    ordered = sorted(keys, key=_number)
    return {key: free.pop(str(found[key]), None) if key in found else ERROR for key in ordered}


def match_by_sentences(samples: Sequence[Sample], written: Sequence[Sequence[Difference]], embed: Embed) -> Matches:
    texts = [[own.description for own in sample.statements.values()] for sample in samples]
    said = [[own.description for own in found] for found in written]
    places = {text: place for place, text in enumerate(dict.fromkeys(t for own in (*texts, *said) for t in own))}
    vectors = np.asarray(embed(list(places)), float) if places else np.zeros((0, 1))
    found: list[dict[str, int | str | None]] = []
    for sample, own, predicted in zip(samples, texts, said, strict=True):
        first, second = (vectors[[places[text] for text in part]] for part in (own, predicted))
        pairs = match_by_cosine(first @ second.T)
        found.append({key: pairs.get(number) for number, key in enumerate(sample.statements)})
    return found


def match_by_cosine(cosine: Float[np.ndarray, "statements predictions"], least: float = THRESHOLD) -> dict[int, int]:
    """Return statement -> prediction, one to one: the pairs of cosine `least` or more that have the highest sum."""
    from scipy.optimize import linear_sum_assignment

    chosen = zip(*linear_sum_assignment(np.where(cosine >= least, cosine, 0.0), maximize=True), strict=True)
    return {int(row): int(column) for row, column in chosen if cosine[row, column] >= least}


def letters_of(
    asked: Asked,
    samples: Sequence[Sample],
    written: Sequence[Sequence[Difference]],
    matches: Matches,
    judge: Judge,
    entails: bool,
) -> list[Letters]:
    """Return the video of each statement's match, exchanged where the two state opposites."""
    places, texts = [], []
    for number, (sample, own, found) in enumerate(zip(samples, written, matches, strict=True)):
        for key in sorted(found, key=_number):
            place = found[key]
            if isinstance(place, int):
                places.append((number, key, own[place].letter))
                texts.append((sample.statements[key].description, own[place].description))
    if entails:
        assert judge.agrees is not None
        opposite: list[bool | None] = [not own for own in judge.agrees([(said, truth) for truth, said in texts])]
    else:
        opposite = _opposites(asked, texts, judge)
    letters: list[Letters] = [
        {key: place if isinstance(place, str) else None for key, place in found.items()} for found in matches
    ]
    for (number, key, letter), is_opposite in zip(places, opposite, strict=True):
        letters[number][key] = ERROR if is_opposite is None else FLIPPED[letter] if is_opposite else letter
    return letters


def _opposites(asked: Asked, texts: Sequence[tuple[str, str]], judge: Judge) -> list[bool | None]:
    """Return whether each pair of texts states opposites, None where the model's answer has another form.

    A question whose answer has another form is asked again, each pair alone.
    """
    together = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
    found: list[bool | None] = []
    for part, own in zip(together, _ask_opposites(asked, together, judge), strict=True):
        if own is None and len(part) > 1:
            alone = _ask_opposites(asked, [[pair] for pair in part], judge)
            found += [one[0] if one is not None else None for one in alone]
        else:
            found += own if own is not None else [None]
    return found


def _ask_opposites(
    asked: Asked, parts: Sequence[Sequence[tuple[str, str]]], judge: Judge
) -> list[list[bool | None] | None]:
    template = asked.prompts["opposites"]
    inquiries = []
    for part in parts:
        statements = str([list(pair) for pair in part])
        inquiries.append(Inquiry(f"opposites {sha256(statements)}", _message(template, {"statements": statements})))
    said = answers(judge, inquiries, {"prompt": sha256(template), "checklist": asked.digest})
    return [parse_opposites(text, len(part)) for text, part in zip(said, parts, strict=True)]


def parse_opposites(text: str | None, count: int) -> list[bool | None] | None:
    """Return whether each of `count` pairs is opposite; None for an answer of another form."""
    found = json_in(text or "")
    results = found.get("results") if isinstance(found, dict) else found
    if not isinstance(results, list) or [str(own) in ("0", "1") for own in results] != [True] * count:
        return None
    return [str(own) == "1" for own in results]


def _message(template: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """Return one user message; a field's text is never searched for fields."""
    text = re.sub(r"\{(\w+)\}", lambda found: fields.get(found[1], found[0]), template)
    return [{"role": "user", "content": text}]


def _number(key: str) -> tuple[int, str]:
    """Return what keys are sorted by: as numbers, if they are."""
    return (int(key), "") if key.isascii() and key.isdigit() else (1 << 62, key)
