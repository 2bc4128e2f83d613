"""VidDiffBench, open: a method writes how two videos differ, and a judge compares that with the
statements.

A text is parsed to differences, each a description and the video that it is more true of. What
cannot be parsed is counted:

    [{"description": "the knees bend less", "video": 2}]     JSON, in a fence or among words; also
                                                             "prediction": "b"
    1. the knees bend less (Video 2)                         or a line for each: the video at its
                                                             end or its beginning

They are matched to the annotated statements one to one, those without a difference ("c") included,
which are not scored. If a match states the opposite of its statement, its video is exchanged.
recall is the share of the statements with a video that have a match with the same video. There are
two ways, whose figures are never mixed:

- a language model matches and finds opposites, six pairs in a question, as the authors do with
  GPT-4o. The prompts are the authors' if their eval_viddiff.py is in the folder, else ours. An
  answer of another form is an error
- ours: Hungarian matching on the cosine of sentence embeddings, at least THRESHOLD; opposites by an
  entailment model, or by the language model without an entailment model

Guarantees
- recall and errors sum to one
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.figures import check_count, summary, truths_of
from stepdiff_core.tasks.benchmarks.judging import Inquiry, Judge, answers, json_values, sha256
from stepdiff_core.tasks.benchmarks.rows import Writing, read_whole
from stepdiff_core.tasks.benchmarks.viddiff import (
    LICENCE,
    SOURCE,
    VideoPair,
    clips,
    describe,
    digest,
    of_domains,
    read_samples,
    split_figures,
    without_splits,
    write_published,
)
from stepdiff_core.tasks.bootstrap import Figure, Resamples, ratio_figure
from stepdiff_core.tasks.captions import Embed
from stepdiff_core.tasks.registry import TaskData, TaskSpec, published

_LETTERS = {"1": "a", "2": "b", "a": "a", "b": "b"}
THRESHOLD = 0.5
"""least cosine of a match; ours, chosen without the benchmark's data"""
TOGETHER = 6
"""pairs of statements in one question about opposites, as published"""
MATCHING = (
    'Statements compare how two people perform one action: "{action_description}". Which '
    "statements of two lists are "
    "about the same visible difference?\nList 0: {differences0}\nList 1: {differences1}\nFor each "
    "key of list 0 ({dict0_keys}) give the key of the statement in list 1 ({dict1_keys}) that is "
    "about the "
    'same difference, in whatever words and whichever direction, or "None". Use a key of list 1 '
    'once at most. Answer with a JSON object alone, from "0" to "{final}" where those are the '
    'keys, such as {"0": "2", "1": "None"}.'
)
"""ours; the fields are the authors'"""
OPPOSITES = (
    'Each pair below holds two statements about one thing. Write for each pair "1" if they say the '
    'opposite of each other, and "0" if they say the same, if only to another degree or in other '
    'words. Answer with a JSON object alone, such as {"results": ["0", "1"]}, with one entry for '
    "each pair, in their order.\nPairs: {statements}"
)
"""ours; the field is the authors'"""
AUTHORS = "eval_viddiff.py"
_NAMES = {"matching": "prompt_open_eval_matching", "opposites": "prompt_open_eval_check_opposite"}
ERROR = "error"
FLIPPED = {"a": "b", "b": "a"}

WAYS = {"lm": "", "ours": "_ours"}
"""way of judging -> ending of its figures"""
PROMPT = (
    "Both videos show this action: {action}. How does the way in which it is performed differ "
    "between them? Write at "
    'most {most} differences as a JSON list, each as {{"description": "...", "video": 1}} or with '
    '"video": 2. A '
    "description is a short statement about what can be seen that is more true of one video than "
    "of the other, such as "
    '"the knees bend less"; it does not mention a video. "video" is the number of the video of '
    "which it is more true."
)
"""ours"""

Matches = Sequence[Mapping[str, int | str | None]]
"""for each pair: statement's key -> place of its prediction, None, or ERROR"""
Letters = dict[str, str | None]
"""statement's key -> the video of its match (a, b), None without a match, or ERROR"""
Verdict = dict[str, Any]
"""way -> Letters; unparsed, excess: numbers of the text"""
_NONE = ("[]", "{}", '{"differences":[]}')
"""texts without spaces that state no difference"""
_VIDEO = re.compile(r"\W*(?:video\W*)?([12ab])\W*", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]+|\d+[.)])\s+")
_LAST = re.compile(
    r"(?P<text>.+?)\s*(?:[:;,|(\[-]|->|=>|→)\s*(?:more\s+)?(?:true\s+)?(?:(?:in|of|for)\s+)?(?:video\s*)?"
    r"(?P<video>[12ab])\s*[)\].]*",
    re.IGNORECASE,
)
_FIRST = re.compile(r"video\s*(?P<video>[12ab])\s*[:|,-]\s*(?P<text>.+)", re.IGNORECASE)


@dataclass(frozen=True)
class WrittenDifference:
    description: str
    letter: str
    """a: more true of the first video; b: of the second"""


@dataclass(frozen=True)
class Parsed:
    differences: tuple[WrittenDifference, ...]
    unparsed: int
    """entries or lines that are not a difference"""
    excess: int
    """differences after the most that were asked for, which are left out"""


def parse_differences(text: str, most: int | None = None) -> Parsed:
    """Return the differences in a text. most: how many were asked for; None: any number."""
    entries = _entries(list(json_values(text)))
    lines = [
        line for line in map(str.strip, text.splitlines()) if line and not line.startswith("```")
    ]
    is_json = bool(entries) or "".join(lines).replace(" ", "") in _NONE
    parsed = (
        [_of_entry(entry) for entry in entries] if is_json else [_of_line(line) for line in lines]
    )
    differences = tuple(difference for difference in parsed if difference is not None)
    return Parsed(
        differences[:most],
        len(parsed) - len(differences),
        len(differences[most or len(differences) :]),
    )


def _entries(values: list[Any]) -> list[Any]:
    """Return the entries of the first value that has objects as entries, [] if none has.

    The value is a list, an object of objects or one with a list, or the first of several objects in
    a row: of lines, or of a list that was cut off at its end. Other values, such as [1], are
    brackets among words.
    """
    for place, value in enumerate(values):
        if isinstance(value, dict) and "description" in value:
            return [member for member in values[place:] if isinstance(member, dict)]
        entries = value
        if isinstance(value, dict) and not all(
            isinstance(member, dict) for member in value.values()
        ):
            entries = next((member for member in value.values() if isinstance(member, list)), [])
        elif isinstance(value, dict):
            entries = list(value.values())
        if any(isinstance(entry, dict) for entry in entries):
            return list(entries)
    return []


def _of_entry(entry: Any) -> WrittenDifference | None:
    if not isinstance(entry, dict):
        return None
    description, video = entry.get("description"), entry.get("video", entry.get("prediction"))
    named = _VIDEO.fullmatch(str(video))
    if not isinstance(description, str) or not description.strip() or named is None:
        return None
    return WrittenDifference(" ".join(description.split()), _LETTERS[named[1].lower()])


def _of_line(line: str) -> WrittenDifference | None:
    # long runs of spaces would cost _LAST quadratic time
    plain = " ".join(_BULLET.sub("", line).split())
    match = _FIRST.fullmatch(plain) or _LAST.fullmatch(plain)
    if match is None or not (description := match["text"].strip()):
        return None
    return WrittenDifference(description, _LETTERS[match["video"].lower()])


def read(folder: Path) -> TaskData:
    """Read the pairs."""
    samples = read_samples(folder)
    rows = []
    for sample in samples:
        if type(sample.most) is not int or sample.most < 1:
            raise StepDiffError(
                f"{folder}: pair {sample.key!r} has no n_differences_open_prediction; get the "
                f"files again from {SOURCE}"
            )
        prompt = PROMPT.format(action=sample.action.rstrip(". "), most=sample.most)
        rows.append(Writing(sample.key, sample.clips, prompt))
    prompts, whose = judge_prompts(folder)
    notes = (describe(samples), f"the judge's prompts are {whose}; the method's prompt is ours")
    return TaskData(
        rows, {sample.key: sample for sample in samples}, notes, prompts, digest(samples)
    )


def judge_prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Return the judge's prompts and whose they are. Raises StepDiffError: the authors' file lacks
    one."""
    path = folder / AUTHORS
    if not path.is_file():
        return {"matching": MATCHING, "opposites": OPPOSITES}, "ours"
    try:
        body = ast.parse(read_whole(path, "the authors' repository").decode()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise StepDiffError(
            f"{path}: cannot be read as Python ({error}); get it again or remove it"
        ) from None
    texts = {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for name in _NAMES.values():
        if name not in texts:
            raise StepDiffError(f"{path}: has no text {name}; get it again or remove it")
    return {purpose: texts[name] for purpose, name in _NAMES.items()}, f"the authors' ({AUTHORS})"


def match_by_model(
    task_data: TaskData,
    samples: Sequence[VideoPair],
    written: Sequence[Sequence[WrittenDifference]],
    judge: Judge,
) -> Matches:
    template = task_data.prompts["matching"]
    inquiries = {}
    for place, (sample, differences) in enumerate(zip(samples, written, strict=True)):
        if not differences or not sample.statements:
            continue
        statements = {key: statement.description for key, statement in sample.statements.items()}
        predicted = {
            str(number): difference.description for number, difference in enumerate(differences)
        }
        fields = {
            "final": str(len(statements) - 1),
            "action_description": sample.action,
            "differences0": json.dumps(statements),
            "differences1": json.dumps(predicted),
            "dict0_keys": json.dumps(sorted(statements, key=_number)),
            "dict1_keys": json.dumps(list(predicted)),
        }
        inquiries[place] = Inquiry(f"{sample.key} matching", _message(template, fields))
    texts = answers(
        judge, list(inquiries.values()), {"prompt": sha256(template), "checklist": task_data.digest}
    )
    matches: list[Mapping[str, int | str | None]] = [
        dict.fromkeys(sample.statements) for sample in samples
    ]
    for place, text in zip(inquiries, texts, strict=True):
        matches[place] = parse_matching(text, list(samples[place].statements), len(written[place]))
    return matches


def parse_matching(
    text: str | None, keys: Sequence[str], predicted: int
) -> dict[str, int | str | None]:
    """Return the place of the prediction that matches each statement.

    A key that the answer lacks is an error, as are all keys of an answer without a JSON object. A
    prediction that does not exist is no match; one that is used again stays with the first
    statement, in the order of the keys.
    """
    answer = next((value for value in json_values(text or "") if isinstance(value, dict)), None)
    if answer is None:
        return dict.fromkeys(keys, ERROR)
    if isinstance(answer.get("matches"), list):  # the authors' structured answer
        items = [item for item in answer["matches"] if isinstance(item, dict)]
        answer = {str(item.get("key_dict0")): item.get("key_dict1") for item in items}
    free = {str(place): place for place in range(predicted)}
    ordered = sorted(keys, key=_number)
    return {key: free.pop(str(answer[key]), None) if key in answer else ERROR for key in ordered}


def match_by_sentences(
    samples: Sequence[VideoPair], written: Sequence[Sequence[WrittenDifference]], embed: Embed
) -> Matches:
    statements = [
        [statement.description for statement in sample.statements.values()] for sample in samples
    ]
    predicted = [[difference.description for difference in differences] for differences in written]
    places = {
        text: place for place, text in enumerate(dict.fromkeys(chain(*statements, *predicted)))
    }
    vectors = np.asarray(embed(list(places)), float) if places else np.zeros((0, 1))
    matches: list[dict[str, int | str | None]] = []
    for sample, *both in zip(samples, statements, predicted, strict=True):
        first, second = (vectors[[places[text] for text in texts]] for texts in both)
        pairs = match_by_cosine(first @ second.T)
        matches.append({key: pairs.get(number) for number, key in enumerate(sample.statements)})
    return matches


def match_by_cosine(
    cosine: Float[np.ndarray, "statements predictions"], least: float = THRESHOLD
) -> dict[int, int]:
    """Return statement -> prediction, one to one: the pairs of cosine `least` or more that have the
    highest sum."""
    from scipy.optimize import linear_sum_assignment

    chosen = zip(
        *linear_sum_assignment(np.where(cosine >= least, cosine, 0.0), maximize=True), strict=True
    )
    return {int(row): int(column) for row, column in chosen if cosine[row, column] >= least}


def letters_of(
    task_data: TaskData,
    samples: Sequence[VideoPair],
    written: Sequence[Sequence[WrittenDifference]],
    matches: Matches,
    judge: Judge,
    entails: bool,
) -> list[Letters]:
    """Return the video of each statement's match, exchanged if the two state opposites."""
    letters: list[Letters] = []
    matched, texts = [], []
    for number, (sample, differences, places) in enumerate(
        zip(samples, written, matches, strict=True)
    ):
        letters.append(
            {key: place if isinstance(place, str) else None for key, place in places.items()}
        )
        for key in sorted(places, key=_number):
            if isinstance(place := places[key], int):
                matched.append((number, key, differences[place].letter))
                texts.append((sample.statements[key].description, differences[place].description))
    if entails:
        assert judge.agrees is not None
        opposite: list[bool | None] = [
            not agree
            for agree in judge.agrees([(prediction, truth) for truth, prediction in texts])
        ]
    else:
        opposite = _opposites(task_data, texts, judge)
    for (number, key, letter), is_opposite in zip(matched, opposite, strict=True):
        letters[number][key] = (
            ERROR if is_opposite is None else FLIPPED[letter] if is_opposite else letter
        )
    return letters


def _opposites(
    task_data: TaskData, texts: Sequence[tuple[str, str]], judge: Judge, together: int = TOGETHER
) -> list[bool | None]:
    """Return whether each pair of texts states opposites, None if the model's answer has another
    form.

    A question whose answer has another form is asked again, each pair alone.
    """
    template = task_data.prompts["opposites"]
    parts = [texts[start : start + together] for start in range(0, len(texts), together)]
    inquiries = []
    for part in parts:
        statements = str([list(pair) for pair in part])
        inquiries.append(
            Inquiry(
                f"opposites {sha256(statements)}", _message(template, {"statements": statements})
            )
        )
    replies = answers(judge, inquiries, {"prompt": sha256(template), "checklist": task_data.digest})
    opposite: list[bool | None] = []
    for part, text in zip(parts, replies, strict=True):
        results = parse_opposites(text, len(part))
        if results is None:
            results = [None] if len(part) == 1 else _opposites(task_data, part, judge, 1)
        opposite += results
    return opposite


def parse_opposites(text: str | None, count: int) -> list[bool | None] | None:
    """Return whether each of `count` pairs is opposite; None for an answer of another form."""
    values = list(json_values(text or ""))
    objects = [value.get("results") for value in values if isinstance(value, dict)]
    for results in [*objects, *values]:  # a list may be a number of a pair in brackets
        if (
            isinstance(results, list)
            and [str(result) in ("0", "1") for result in results] == [True] * count
        ):
            return [str(result) == "1" for result in results]
    return None


def _message(template: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """Return one user message; a field's text is never searched for fields."""
    text = re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), template)
    return [{"role": "user", "content": text}]


def _number(key: str) -> tuple[int, str]:
    """Return the sort key of keys: as numbers, if they are."""
    return (int(key), "") if key.isascii() and key.isdigit() else (1 << 62, key)


def judged(task_data: TaskData, predictions: Sequence[str | None], judge: Judge) -> list[Verdict]:
    """Return a verdict on each text by the ways that the judge has the parts for."""
    if judge.ask is None and (judge.embed is None or judge.agrees is None):
        raise StepDiffError(
            "these texts need a judge: give --judge MODEL or --endpoint URL, or sentence "
            "embeddings and an entailment model"
        )
    samples = truths_of(task_data.rows, task_data.truth)
    parsed = [
        parse_differences(text or "", sample.most)
        for sample, text in zip(samples, predictions, strict=True)
    ]
    written = [one.differences for one in parsed]
    matches = {}
    if judge.ask is not None:
        matches["lm"] = match_by_model(task_data, samples, written, judge)
    if judge.embed is not None:
        matches["ours"] = match_by_sentences(samples, written, judge.embed)
    verdicts: list[Verdict] = [
        {"unparsed": text.unparsed, "excess": text.excess} for text in parsed
    ]
    for way, places in matches.items():
        entails = judge.agrees is not None and way == "ours"
        letters = letters_of(task_data, samples, written, places, judge, entails)
        for verdict, of_pair in zip(verdicts, letters, strict=True):
            verdict[way] = of_pair
    return verdicts


def score(
    rows: Sequence[Writing],
    predictions: Sequence[Any],
    truth: Mapping[str, VideoPair],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return recall of each split, their plain mean (average), over all statements, and the shares
    of errors; predictions: the verdict on each pair's text (`judged`). Pairs are drawn whole for
    the intervals."""
    check_count(rows, predictions, "verdicts")
    if bad := [
        row.key
        for row, of_pair in zip(rows, predictions, strict=True)
        if not isinstance(of_pair, dict)
    ]:
        raise StepDiffError(
            f"pair {bad[0]!r}: no verdict on its text; judge it with --judge or --endpoint"
        )
    samples = truths_of(rows, truth)
    figures: dict[str, Figure] = {}
    for way, ending in WAYS.items():
        if all(way in of_pair for of_pair in predictions):
            letters = [of_pair[way] for of_pair in predictions]
            figures |= {
                name + ending: figure for name, figure in _figures(samples, letters).items()
            }
    draws = Resamples([row.key for row in rows], bootstrap, seed)
    scores = summary(
        "viddiff-open",
        rows,
        figures,
        draws,
        categories=of_domains([sample.domain for sample in samples]),
    )
    return without_splits(scores) | {
        name: sum(of_pair[name] for of_pair in predictions) for name in ("unparsed", "excess")
    }


def _figures(samples: Sequence[VideoPair], letters: Sequence[Letters]) -> dict[str, Figure]:
    names = ("recall", "err_nomatch", "err_flipped", "err_judge")
    counts = np.zeros((len(samples), len(names)))
    for number, (sample, of_pair) in enumerate(zip(samples, letters, strict=True)):
        for key, statement in sample.statements.items():
            if statement.truth != "c":
                letter = of_pair.get(key)
                outcome = (
                    0
                    if letter == statement.truth
                    else 1
                    if letter is None
                    else 3
                    if letter == ERROR
                    else 2
                )
                counts[number, outcome] += 1
    statements = counts.sum(axis=1)
    shares = {name: ratio_figure(counts[:, place], statements) for place, name in enumerate(names)}
    return split_figures(counts[:, 0], statements, [sample.split for sample in samples]) | shares


def export(data: Path, rows: Sequence[Any], predictions: Sequence[Any], folder: Path) -> list[Path]:
    """Write the differences of texts in the authors' format, as a list in the order of the pairs
    and by their keys.

    Those after the most that are asked for are left out, because the authors' scorer would count
    them.
    """
    most = {sample.key: sample.most for sample in read_samples(data)}
    by_pair = {
        row.key: {
            str(number): {"description": difference.description, "prediction": difference.letter}
            for number, difference in enumerate(
                parse_differences(text or "", most[row.key]).differences
            )
        }
        for row, text in zip(rows, predictions, strict=True)
    }
    return write_published(by_pair, folder)


SPEC = TaskSpec(
    name="viddiff-open",
    title="VidDiffBench, open",
    figures={
        name + ending: heading + (" (ours)" if ending else "")
        for ending in WAYS.values()
        for name, heading in (
            ("average", "average"),
            ("easy", "easy"),
            ("medium", "medium"),
            ("hard", "hard"),
            ("recall", "all statements"),
            ("err_nomatch", "no match"),
            ("err_flipped", "wrong video"),
        )
    },
    read=read,
    score=score,
    clips=clips,
    judge=judged,
    options=("judge", "endpoint", "entailment", "similarity"),
    export=export,
    published=published("viddiff-open"),
    licence=LICENCE,
)
