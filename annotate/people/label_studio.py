"""Collected answers as tasks of Label Studio, and its exports as answers.

A task is a pair, shown with one of its clips on the left: {"data": {"video1": URL, "video2": URL, "pair", "reference",
"candidate", "left", "categories", "keystep_words", "answers"}, "annotations": [{"id", "result": [...], ...}]}.
`configuration` makes the labelling configuration, which names the controls: `keystep`, `rejected`, `text_1` and
`score_1` for the first of the task's categories. `answers` has what an import there replaces: annotator, kind, time and
seconds of each annotation that the file comes with. Label Studio keeps the annotation's `id` as its `import_id`.

Files are for "Import" and from "Export, JSON"; tried with Label Studio 1.23.2. `completed_by` is not written, because
an import refuses people whom the project does not have. Scores: 5 = not different, 1 = very different.

Guarantees
- written answers read back equal, also after an import into Label Studio and an export
- an annotation made in Label Studio is an answer: no text and no score is score 5, a skipped pair is rejected
- every annotation keeps the rules of the form, or is refused in one line
- who answered is a field of the task or of Label Studio, never a text that an annotator can write
- a line about a fault names the task and the annotation by their ids, or by their places in the file
- the configuration has a control for every result, and nothing in a rubric is markup
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from annotate.people.answers import Answer, answer_of, problems
from annotate.people.pairs import Pair
from annotate.people.task import HIGHEST, SCORES, Category, Task
from common.errors import StepDiffError
from common.io.files import write_text

URL = "/data/local-files/?d=videos/{clip}.mp4"
"""where Label Studio serves files of a local storage, which is a folder inside its document root"""
SKIPPED = "skipped"
"""the reason of a pair that was skipped in Label Studio"""
CORRECT = "Correct this in Label Studio and export again."
_RECORD = ("annotator", "kind", "submitted", "seconds")
_HINT = "make the project with the configuration that python -m annotate.export writes"


def video_url(form: str) -> Callable[[str], str]:
    """Return what makes a clip's URL of one with {clip} in it. StepDiffError: no {clip}."""
    if "{clip}" not in form:
        raise StepDiffError(f"{form}: a URL of videos has {{clip}} where the clip's id belongs")
    return lambda clip: form.replace("{clip}", quote(clip, safe=""))


def tasks_of(answers: Iterable[Answer], url: Callable[[str], str], task: Task | None = None) -> list[dict[str, Any]]:
    """Return one task for each pair and side, with its answers as annotations.

    Args:
        answers: In any order.
        url: Returns the URL of a clip's video.
        task: Also its pairs that nobody answered are tasks. Its categories come first; those of the answers follow.
    """
    answers, task = list(answers), task or Task((), ())
    names = list(dict.fromkeys([*task.names, *(name for answer in answers for name in answer.differences)]))
    tasks: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(pair: str, reference: str, candidate: str, left: str | None) -> dict[str, Any]:
        shown = (candidate, reference) if left == "candidate" else (reference, candidate)
        videos = {f"video{number}": url(clip) for number, clip in enumerate(shown, 1)}
        about = {"pair": pair, "reference": reference, "candidate": candidate, "left": left}
        form = {"categories": names, "keystep_words": task.keystep_words}
        made = {"data": videos | about | form | {"answers": []}, "annotations": []}
        return tasks.setdefault((pair, reference, candidate, left), made)

    for answer in answers:
        own = of(answer.pair, answer.reference, answer.candidate, answer.left)
        own["data"]["answers"].append({name: getattr(answer, name) for name in _RECORD})
        own["annotations"].append(_annotation(answer, names, len(own["data"]["answers"])))
    answered = {answer.pair for answer in answers}
    for pair in task.pairs:
        if pair.id not in answered:
            of(pair.id, pair.reference, pair.candidate, "reference")
    return list(tasks.values())


def write_label_studio(path: str | Path, tasks: Sequence[dict[str, Any]]) -> None:
    """Write tasks as a file that Label Studio imports."""
    write_text(Path(path), json.dumps(tasks, indent=1, allow_nan=False) + "\n")


def _annotation(answer: Answer, names: Sequence[str], identity: int) -> dict[str, Any]:
    results = [_result("keystep", "text", answer.keystep)] if answer.keystep else []
    for number, name in enumerate(names, 1):
        if (difference := answer.differences.get(name)) is not None:
            results += [_result(f"text_{number}", "text", difference.text)] if difference.text else []
            results.append(_result(f"score_{number}", "choices", str(difference.score)))
    if answer.rejected is not None:
        results.append(_result("rejected", "choices", answer.rejected))
    return {
        "id": identity,
        "result": results,
        "lead_time": answer.seconds,
        "was_cancelled": False,
        "ground_truth": answer.kind == "adjudication",
    }


def _result(name: str, kind: str, value: str) -> dict[str, Any]:
    control = {"text": "textarea", "choices": "choices"}[kind]
    return {"id": name, "from_name": name, "to_name": "video1", "type": control, "value": {kind: [value]}}


def answers_of(
    tasks: Sequence[Any], where: str, refused: Callable[[str], None] | None = None, first: int = 1
) -> list[Answer]:
    """Return the answers in the annotations of tasks.

    Args:
        tasks: A list as `tasks_of` makes it, or as Label Studio exports it.
        where: Beginning of each line about a fault.
        refused: Receives one line for each annotation that is no answer or breaks a rule of the form; the others are
            returned. None: the first one raises.
        first: Place of the first task in its file, from 1; lines name tasks without an id by their place.

    Raises:
        StepDiffError: A task of another form, or without `refused` an annotation that is refused.
    """
    return [answer for _, answer in placed_answers(tasks, where, refused, first)]


def placed_answers(
    tasks: Sequence[Any], where: str, refused: Callable[[str], None] | None = None, first: int = 1
) -> Iterator[tuple[str, Answer]]:
    """Yield the answers of `answers_of`, each with its place: `where`, the task and the annotation."""
    for number, task in enumerate(tasks, first):
        for place, answer in _answers(task, f"{where}: task {_identity(task, number)}"):
            if isinstance(answer, Answer):
                yield place, answer
            elif refused is None:
                raise StepDiffError(f"{place}: {answer}")
            else:
                refused(f"{place}: {answer}")


def _identity(found: Any, number: int) -> int:
    """Return the id that Label Studio gave, by default the place in the file, from 1."""
    own = found.get("id") if isinstance(found, dict) else None
    return own if type(own) is int else number


def _answers(task: Any, where: str) -> Iterator[tuple[str, Answer | StepDiffError]]:
    data, annotations = (task.get(name) if isinstance(task, dict) else None for name in ("data", "annotations"))
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise StepDiffError(f"{where}: expects data and annotations, as an export of Label Studio in the form JSON has")
    for name in ("video1", "video2"):
        if not isinstance(data.get(name), str):
            raise StepDiffError(f"{where}: its data has no {name}; {_HINT}")
    categories, words = data.get("categories"), data.get("keystep_words", Task.keystep_words)
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise StepDiffError(f"{where}: its data has no list of categories; {_HINT}")
    if type(words) is not int or words < 1:
        raise StepDiffError(f"{where}: keystep_words: expects a number of words, not {words!r:.80}; {_HINT}")
    reference, candidate = data.get("reference", data["video1"]), data.get("candidate", data["video2"])
    pair = {"pair": data.get("pair", f"{reference} {candidate}"), "reference": reference, "candidate": candidate}
    pair["left"] = data.get("left", "reference")
    records = _records(data.get("answers", []), where)
    for number, annotation in enumerate(annotations, 1):
        place = f"{where}: annotation {_identity(annotation, number)}"
        try:
            yield place, _answer(pair, annotation, categories, words, records)
        except StepDiffError as error:
            yield place, error


def _answer(
    pair: Mapping[str, Any], annotation: Any, categories: Sequence[str], words: int, records: dict[int, dict[str, Any]]
) -> Answer:
    """Return the answer in an annotation; the record of an answer that was imported there is taken from `records`."""
    values = _values(annotation)
    record = None
    if annotation.get("parent_annotation") is None:  # else a copy, which is its new author's
        number = annotation.get("import_id" if "completed_by" in annotation else "id")
        record = records.pop(number, None) if type(number) is int else None
    unchanged = annotation.get("updated_by") is None
    if record is None and unchanged and "record" in values:
        raise StepDiffError(
            "only its text 'record' names who answered, which anybody may change: export the tasks again"
        )
    rejected = SKIPPED if annotation.get("was_cancelled") else values.get("rejected")
    if record is not None and unchanged:  # imported there
        keystep, differences = values.get("keystep", ""), dict(_differences(values, categories, None))
    else:
        values = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        keystep = " ".join(str(values.get("keystep", "")).split())
        differences = {} if rejected else dict(_differences(values, categories, HIGHEST))
        record = _native(annotation) if record is None else record | {"submitted": annotation.get("updated_at")}
    answer = answer_of({**pair, "keystep": keystep, "differences": differences, "rejected": rejected, **record})
    if broken := _broken(answer, categories, words):
        raise StepDiffError(f"{' '.join(broken)} {CORRECT}")
    return answer


def _broken(answer: Answer, categories: Sequence[str], words: int) -> list[str]:
    """Return the sentences of the annotation page about an answer. The form has its own reasons to reject."""
    pair = Pair(answer.pair, answer.reference, answer.candidate)
    made = tuple(Category(name, name, {}) for name in categories)
    reasons = () if answer.rejected is None else (answer.rejected,)
    return problems(answer, Task((pair,), made, keystep_words=words, reject_reasons=reasons))


def _values(annotation: Any) -> dict[str, str | int]:
    """Return the text, choice or rating of each control of an annotation."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise StepDiffError("has no list of results")
    values = {}
    for result in annotation["result"]:
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict) or "from_name" not in result:
            raise StepDiffError(f"a result has from_name and value, not {result!r:.80}")
        values[str(result["from_name"])] = _value(result["value"])
    return values


def _differences(
    values: Mapping[str, str | int], categories: Sequence[str], without: int | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield category, text and score.

    Args:
        values: By the name of the control.
        categories: In the order of their controls.
        without: Score of a category with neither text nor score; one with only a text is left out, as on the annotation
            page. None leaves out the former and refuses the latter.
    """
    for number, name in enumerate(categories, 1):
        text, score = values.get(f"text_{number}", ""), values.get(f"score_{number}")
        if score is None and text and without is None:
            raise StepDiffError(f"text_{number} has no score_{number}; {_HINT}")
        if score is None and not text:
            score = without
        if score is not None:
            yield name, {"text": text, "score": _whole(score)}


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


def _records(found: Any, where: str) -> dict[int, dict[str, Any]]:
    """Return the records of the answers that a task came with, by the `id` of their annotations."""
    if not isinstance(found, list) or not all(isinstance(own, dict) and set(own) == set(_RECORD) for own in found):
        raise StepDiffError(f"{where}: answers: expects a list of {', '.join(_RECORD)}, not {found!r:.80}; {_HINT}")
    return dict(enumerate(found, 1))


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
    # With 1fr alone the second video leaves the window, because a player does not become narrower than its buttons.
    grid = "display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 12px"
    videos = _add(view, "View", style=grid)
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
        for score in SCORES:  # ascending, because Label Studio gives the keys 1, 2, ... to choices in their order
            hint = "; ".join(category.rubric.get(score, ()))
            _add(choices, "Choice", value=str(score), **({"hint": hint} if hint else {}))
    _add(view, "Header", size="4", value="Reject the pair")
    choices = _choices(view, "rejected")
    for reason in task.reject_reasons:
        _add(choices, "Choice", value=reason)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text_area(parent: ElementTree.Element, name: str) -> None:
    _add(parent, "TextArea", name=name, toName="video1", rows="1", maxSubmissions="1", editable="true")


def _choices(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    return _add(parent, "Choices", name=name, toName="video1", choice="single-radio", showInline="true")
