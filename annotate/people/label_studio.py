"""Collected answers as tasks of Label Studio, and its exports as answers.

A task is a pair, shown with one of its clips on the left: {"data": {"video1": URL, "video2": URL, "pair", "reference",
"candidate", "left", "categories"}, "annotations": [{"result": [...], "lead_time", ...}]}. `configuration` makes the
labelling configuration, which names the controls: `keystep`, `rejected`, `text_1` and `score_1` for the first of the
task's categories, and the hidden text `record`, which has what an import replaces: annotator, kind, time and seconds.

Files are for "Import" and from "Export, JSON" of Label Studio 1.20. `completed_by` is not written, because an import
refuses people whom the project does not have. Scores: 5 = not different, 1 = very different.

Guarantees
- written answers read back equal
- an annotation made in Label Studio is an answer: no text and no score is score 5, a skipped pair is rejected
- a field that is missing gives one line that names the task and the annotation
- the configuration has a control for every result, and nothing in a rubric is markup
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from annotate.people.answers import Answer, answer_of
from annotate.people.pairs import Pair
from annotate.people.task import HIGHEST, SCORES, Task
from common.errors import StepDiffError
from common.io.files import write_text

URL = "/data/local-files/?d={clip}.mp4"
"""where Label Studio serves files of its local storage"""
SKIPPED = "skipped"
"""the reason of a pair that was skipped in Label Studio"""
_RECORD = ("annotator", "kind", "submitted", "seconds")
_HINT = "make the project with the configuration that python -m annotate.export writes"


def video_url(form: str) -> Callable[[str], str]:
    """Return what makes a clip's URL of one with {clip} in it. StepDiffError: no {clip}."""
    if "{clip}" not in form:
        raise StepDiffError(f"{form}: a URL of videos has {{clip}} where the clip's id belongs")
    return lambda clip: form.replace("{clip}", quote(clip, safe=""))


def tasks_of(
    answers: Iterable[Answer], url: Callable[[str], str], pairs: Sequence[Pair] = (), categories: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return one task for each pair and side, with its answers as annotations.

    Args:
        answers: In any order.
        url: Returns the URL of a clip's video.
        pairs: Also those that nobody answered are tasks.
        categories: Of the task; those of the answers follow.
    """
    answers = list(answers)
    names = list(dict.fromkeys([*categories, *(name for answer in answers for name in answer.differences)]))
    tasks: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(pair: str, reference: str, candidate: str, left: str | None) -> dict[str, Any]:
        shown = (candidate, reference) if left == "candidate" else (reference, candidate)
        videos = {f"video{number}": url(clip) for number, clip in enumerate(shown, 1)}
        about = {"pair": pair, "reference": reference, "candidate": candidate, "left": left, "categories": names}
        return tasks.setdefault((pair, reference, candidate, left), {"data": {**videos, **about}, "annotations": []})

    for answer in answers:
        own = of(answer.pair, answer.reference, answer.candidate, answer.left)
        own["annotations"].append(_annotation(answer, names))
    answered = {answer.pair for answer in answers}
    for pair in pairs:
        if pair.id not in answered:
            of(pair.id, pair.reference, pair.candidate, "reference")
    return list(tasks.values())


def write_label_studio(path: str | Path, tasks: Sequence[dict[str, Any]]) -> None:
    """Write tasks as a file that Label Studio imports."""
    write_text(Path(path), json.dumps(tasks, indent=1, allow_nan=False) + "\n")


def _annotation(answer: Answer, names: Sequence[str]) -> dict[str, Any]:
    results = [_result("keystep", "text", answer.keystep)] if answer.keystep else []
    for number, name in enumerate(names, 1):
        if (difference := answer.differences.get(name)) is not None:
            results += [_result(f"text_{number}", "text", difference.text)] if difference.text else []
            results.append(_result(f"score_{number}", "choices", str(difference.score)))
    if answer.rejected is not None:
        results.append(_result("rejected", "choices", answer.rejected))
    record = {name: getattr(answer, name) for name in _RECORD}
    results.append(_result("record", "text", json.dumps(record, allow_nan=False)))
    return {
        "result": results,
        "lead_time": answer.seconds,
        "was_cancelled": False,
        "ground_truth": answer.kind == "adjudication",
    }


def _result(name: str, kind: str, value: str) -> dict[str, Any]:
    control = {"text": "textarea", "choices": "choices"}[kind]
    return {"id": name, "from_name": name, "to_name": "video1", "type": control, "value": {kind: [value]}}


def answers_of(tasks: Sequence[Any], where: str) -> list[Answer]:
    """Return the answers in the annotations of tasks.

    Raises:
        StepDiffError: A task or annotation of another form; the line begins with `where`.
    """
    return [answer for number, task in enumerate(tasks, 1) for answer in _answers(task, f"{where}: task {number}")]


def _answers(task: Any, where: str) -> Iterator[Answer]:
    data, annotations = (task.get(name) if isinstance(task, dict) else None for name in ("data", "annotations"))
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise StepDiffError(f"{where}: expects data and annotations, as an export of Label Studio in the form JSON has")
    for name in ("video1", "video2"):
        if not isinstance(data.get(name), str):
            raise StepDiffError(f"{where}: its data has no {name}; {_HINT}")
    categories = data.get("categories")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise StepDiffError(f"{where}: its data has no list of categories; {_HINT}")
    reference, candidate = data.get("reference", data["video1"]), data.get("candidate", data["video2"])
    pair = {"pair": data.get("pair", f"{reference} {candidate}"), "reference": reference, "candidate": candidate}
    pair["left"] = data.get("left", "reference")
    for number, annotation in enumerate(annotations, 1):
        try:
            yield answer_of(pair | _given(annotation, categories))
        except StepDiffError as error:
            raise StepDiffError(f"{where}: annotation {number}: {error}") from None


def _given(annotation: Any, categories: Sequence[str]) -> dict[str, Any]:
    """Return what an annotation says, with the keys of an answer but without the pair."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise StepDiffError("has no list of results")
    values = {}
    for result in annotation["result"]:
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict) or "from_name" not in result:
            raise StepDiffError(f"a result has from_name and value, not {result!r:.80}")
        values[str(result["from_name"])] = _value(result["value"])
    record = _record(values.pop("record", None))
    rejected = values.get("rejected")
    if record is None:
        rejected = SKIPPED if annotation.get("was_cancelled") else rejected
        record = _native(annotation)
        differences = {} if rejected else dict(_differences(values, categories, HIGHEST))
    else:
        differences = dict(_differences(values, categories, None))
    return {"keystep": values.get("keystep", ""), "differences": differences, "rejected": rejected, **record}


def _differences(
    values: Mapping[str, str | int], categories: Sequence[str], without: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield category, text and score; without: the score of a category with neither, None to leave it out."""
    for number, name in enumerate(categories, 1):
        text, score = values.get(f"text_{number}", ""), values.get(f"score_{number}")
        if score is None and text:
            raise StepDiffError(f"{name!r:.80} has a text and no score; give it one in Label Studio")
        if score is None and without is None:
            continue
        yield name, {"text": text, "score": without if score is None else _whole(score)}


def _value(value: Mapping[str, Any]) -> str | int:
    """Return the text, choice or rating of a result."""
    if type(rating := value.get("rating")) is int:
        return rating
    texts = value.get("text", value.get("choices"))
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise StepDiffError(f"a value has text, choices or rating, not {value!r:.80}")
    return "\n".join(texts)


def _whole(score: str | int) -> str | int:
    return int(score) if isinstance(score, str) and score in map(str, SCORES) else score


def _record(text: str | int | None) -> dict[str, Any] | None:
    """Return the record of an answer that was written here, None for an annotation made in Label Studio."""
    if not text:
        return None
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != set(_RECORD):
        raise StepDiffError(f"the text 'record' has {', '.join(_RECORD)}, not {text!r:.80}; leave it empty")
    return found


def _native(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return who made an annotation in Label Studio, and when."""
    person = annotation.get("completed_by")
    person = person.get("email", person.get("id")) if isinstance(person, dict) else person
    if person is None:
        raise StepDiffError("has no completed_by; export the project as JSON")
    kind = "adjudication" if annotation.get("ground_truth") else "work"
    when, seconds = annotation.get("created_at"), annotation.get("lead_time")
    return {"annotator": str(person), "kind": kind, "submitted": when, "seconds": seconds}


def configuration(task: Task) -> str:
    """Return the labelling configuration of a project, as XML."""
    view = ElementTree.Element("View")
    _add(view, "Header", value=task.instructions)
    videos = _add(view, "View", style="display: grid; grid-template-columns: 1fr 1fr; column-gap: 12px")
    for number in (1, 2):
        side = _add(videos, "View")
        _add(side, "Header", value=f"Video {number}", size="4")
        _add(side, "Video", name=f"video{number}", value=f"$video{number}")
    _add(
        view,
        "Header",
        size="4",
        value=f"What is the common keystep in both clips? (at most {task.keystep_words} words)",
    )
    _text_area(view, "keystep")
    for number, category in enumerate(task.categories, 1):
        _add(view, "Header", size="4", value=f"{category.title}: how does Video 2 differ from Video 1?")
        _text_area(view, f"text_{number}")
        _add(view, "Header", size="6", value=f"{category.title} score (1: very different; 5: not different)")
        choices = _choices(view, f"score_{number}")
        for score in reversed(SCORES):
            hint = "; ".join(category.rubric.get(score, ()))
            _add(choices, "Choice", value=str(score), **({"hint": hint} if hint else {}))
    _add(view, "Header", size="4", value="Reject the pair")
    choices = _choices(view, "rejected")
    for reason in task.reject_reasons:
        _add(choices, "Choice", value=reason)
    _text_area(_add(view, "View", style="display: none"), "record")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text_area(parent: ElementTree.Element, name: str) -> None:
    _add(parent, "TextArea", name=name, toName="video1", rows="1", maxSubmissions="1", editable="true")


def _choices(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    return _add(parent, "Choices", name=name, toName="video1", choice="single-radio", showInline="true")
