"""Collected answers as tasks of Label Studio, and its exports as answers.

A task is a pair with one of its clips on the left: {"data": {"video1": URL, "video2": URL, "pair",
"reference", "candidate", "left", "categories", "keystep_words", "answers"}, "annotations": [{"id",
"result": [...], ...}]}. The controls are `keystep`, `rejected`, `text_1` and `score_1` for the
first category. `answers` has what an import there replaces: annotator, kind, time and seconds of
each annotation of the file, by its `id`, there `import_id`.

Files are for "Import" and from "Export, JSON"; tried with Label Studio 1.23.2. `completed_by` is
not written, because an import refuses people whom the project does not have. Scores: 5 = not
different, 1 = very different.

Guarantees
- written answers read back equal, also after an import into Label Studio and an export
- an annotation that breaks a rule of the form is refused in one line; no text and no score is score
  5, a skipped pair is rejected
- who answered is a field of the task or of Label Studio, never a text that an annotator can write
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote
from xml.etree import ElementTree

from pydantic import AfterValidator, BaseModel, Field, Strict

from stepdiff.annotate.forms.form import SCORES, AnnotationTask, Answer, Form, answer_of, plain
from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError

SKIPPED = "skipped"  # the reason of a pair that was skipped in Label Studio
CORRECT = "Correct this in Label Studio and export again."
_RECORD = ("annotator", "kind", "submitted", "seconds")
_HINT = "make the project with the configuration that stepdiff annotate export writes"


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    if set(record) != set(_RECORD):
        raise ValueError(f"should be an object of {', '.join(_RECORD)}")
    return record


Record = Annotated[dict[str, Any], AfterValidator(_whole)]


class _Data(BaseModel):
    """The pair of a task. A task of another tool has only videos."""

    video1: str
    video2: str
    categories: list[str]
    pair: Any = None
    reference: Any = None
    candidate: Any = None
    left: Any = "reference"
    keystep_words: Annotated[int, Strict(), Field(ge=1)] = 9
    answers: list[Record] = []


class _Task(BaseModel):
    data: _Data
    annotations: list[Any]


class _Value(BaseModel):
    """The text, choice or rating of a control."""

    rating: int | None = None
    text: str | list[str] | None = None
    choices: str | list[str] | None = None


class _Result(BaseModel):
    from_name: str
    value: _Value


class _Labels(BaseModel):
    result: list[_Result]


def tasks_of(
    answers: Iterable[Answer], url: str, task: AnnotationTask | None = None
) -> list[dict[str, Any]]:
    """Return one task for each pair and side, with its answers as annotations.

    Pairs of `task` that nobody answered are tasks too. Its categories come first, then further ones
    of the answers. `url` is the address of a clip's video, with {clip} in it. StepDiffError: no
    {clip}.
    """
    if "{clip}" not in url:
        raise StepDiffError(f"{url}: a URL of videos has {{clip}} where the clip's id belongs")
    answers, task = list(answers), task or AnnotationTask(())
    names = list(
        dict.fromkeys([*task.names, *(name for answer in answers for name in answer.differences)])
    )
    tasks: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(pair: str, reference: str, candidate: str, left: str | None) -> dict[str, Any]:
        sides = (candidate, reference) if left == "candidate" else (reference, candidate)
        videos = {
            f"video{n}": url.replace("{clip}", quote(clip, safe=""))
            for n, clip in enumerate(sides, 1)
        }
        about = {"pair": pair, "reference": reference, "candidate": candidate, "left": left}
        form = {"categories": names, "keystep_words": task.keystep_words, "answers": []}
        return tasks.setdefault(
            (*about.values(),), {"data": videos | about | form, "annotations": []}
        )

    for answer in answers:
        of_side = of(answer.pair, answer.reference, answer.candidate, answer.left)
        of_side["data"]["answers"].append({name: getattr(answer, name) for name in _RECORD})
        of_side["annotations"].append(_annotation(answer, names, len(of_side["data"]["answers"])))
    answered = {answer.pair for answer in answers}
    for pair in task.pairs:
        if pair.id not in answered:
            of(pair.id, pair.reference, pair.candidate, "reference")
    return list(tasks.values())


def _annotation(answer: Answer, names: Sequence[str], identity: int) -> dict[str, Any]:
    values = [("keystep", "text", answer.keystep)]
    for number, name in enumerate(names, 1):
        if (difference := answer.differences.get(name)) is not None:
            values.append((f"text_{number}", "text", difference.text))
            values.append((f"score_{number}", "choices", str(difference.score)))
    values.append(("rejected", "choices", answer.rejected or ""))
    return {
        "id": identity,
        "result": [
            {
                "id": name,
                "from_name": name,
                "to_name": "video1",
                "type": "textarea" if kind == "text" else "choices",
                "value": {kind: [value]},
            }
            for name, kind, value in values
            if value
        ],
        "lead_time": answer.seconds,
        "was_cancelled": False,
        "ground_truth": answer.kind == "adjudication",
    }


def placed_answers(
    tasks: Sequence[Any], where: str, refused: Callable[[str], None] | None = None, first: int = 1
) -> Iterator[tuple[str, Answer]]:
    """Yield the answers in the annotations of tasks, each with its place: `where`, the task and the
    annotation.

    Args:
        tasks: A list as `tasks_of` makes it, or as Label Studio exports it.
        where: Beginning of each line about a fault.
        refused: Receives one line for each annotation that is no answer or breaks a rule of the
            form; the others are returned. None: the first one raises.
        first: Place of the first task in its file, from 1; lines name tasks without an id by their
            place.

    Raises:
        StepDiffError: A task of another form, or without `refused` an annotation that is refused.
    """
    for number, keys in enumerate(tasks, first):
        place = f"{where}: task {_identity(keys, number)}"
        try:
            task = checked(_Task.model_validate, keys, f"{place}: ")
        except StepDiffError as error:
            raise StepDiffError(f"{error}; {_HINT}") from None
        records = dict(enumerate(task.data.answers, 1))
        for number, annotation in enumerate(task.annotations, 1):
            at = f"{place}: annotation {_identity(annotation, number)}"
            try:
                answer = _answer(
                    task.data,
                    annotation,
                    checked(_Labels.model_validate, annotation).result,
                    records,
                )
            except StepDiffError as error:
                if refused is None:
                    raise StepDiffError(f"{at}: {error}") from None
                refused(f"{at}: {error}")
            else:
                yield at, answer


def _identity(keys: Any, number: int) -> int:
    """Return the id that Label Studio gave, by default the place in the file, from 1."""
    identity = keys.get("id") if isinstance(keys, dict) else None
    return identity if type(identity) is int else number


def _answer(
    data: _Data,
    annotation: dict[str, Any],
    results: list[_Result],
    records: dict[int, dict[str, Any]],
) -> Answer:
    """Return the answer in an annotation; the record of an answer that was imported there is taken
    from `records`."""
    values = {result.from_name: _text(result.value) for result in results}
    record = None
    if annotation.get("parent_annotation") is None:  # else a copy, which is its new author's
        number = annotation.get("import_id" if "completed_by" in annotation else "id")
        record = records.pop(number, None) if type(number) is int else None
    unchanged = annotation.get("updated_by") is None
    reference, candidate = data.reference or data.video1, data.candidate or data.video2
    pair = {
        "pair": data.pair or f"{reference} {candidate}",
        "reference": reference,
        "candidate": candidate,
    }
    form = Form(tuple(map(plain, data.categories)), data.keystep_words)
    rejected = SKIPPED if annotation.get("was_cancelled") else values.get("rejected")
    scores = {
        name: int(score) if score in map(str, SCORES) else score
        for name, score in _controls("score", data, values)
    }
    texts = dict(_controls("text", data, values))
    if record is not None and unchanged:  # imported there
        if unscored := [name for name in texts if name not in scores]:
            raise StepDiffError(f"{unscored[0]} has a text and no score; {_HINT}")
        differences = {
            name: {"text": texts.get(name, ""), "score": score} for name, score in scores.items()
        }
        filled = {
            "keystep": values.get("keystep", ""),
            "differences": differences,
            "rejected": rejected,
        }
    else:
        texts = {name: texts.get(name, "") for name in data.categories}
        filled = form.filled(
            values.get("keystep", ""), texts, scores, rejected and rejected.strip()
        )
    if record is None:
        record = _native(annotation)
    elif not unchanged:
        record = record | {"submitted": annotation.get("updated_at")}
    answer = answer_of({**pair, "left": data.left, **filled, **record})
    # The project has its own reasons to reject.
    if broken := form.problems(answer) if answer.rejected is None else []:
        raise StepDiffError(f"{' '.join(broken)} {CORRECT}")
    return answer


def _controls(kind: str, data: _Data, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(data.categories, 1):
        if value := values.get(f"{kind}_{number}"):
            yield name, value


def _text(value: _Value) -> str:
    parts = [part for part in (value.rating, value.text, value.choices) if part is not None]
    if not parts:
        raise StepDiffError("a value has text, choices or rating, and this one has none")
    return "\n".join(parts[0]) if isinstance(parts[0], list) else str(parts[0])


def _native(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return who made an annotation in Label Studio, and when."""
    person = annotation.get("completed_by")
    person = person.get("email", person.get("id")) if isinstance(person, dict) else person
    if person is None:
        raise StepDiffError("has no completed_by; export the project as JSON")
    kind = "adjudication" if annotation.get("ground_truth") else "work"
    when, seconds = annotation.get("created_at"), annotation.get("lead_time")
    return {"annotator": str(person), "kind": kind, "submitted": when, "seconds": seconds}


def configuration(form: Form) -> str:
    view = ElementTree.Element("View")
    _add(view, "Header", value=form.instructions)
    # With 1fr alone the second video leaves the window, because a player does not become narrower
    # than its buttons.
    grid = "display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 12px"
    videos = _add(view, "View", style=grid)
    for number in (1, 2):
        side = _add(videos, "View")
        _add(side, "Header", value=f"Video {number}", size="4")
        _add(side, "Video", name=f"video{number}", value=f"$video{number}")
    keystep = f"What is the common keystep in both clips? (at most {form.keystep_words} words)"
    _add(view, "Header", size="4", value=keystep)
    _text_area(view, "keystep")
    for number, category in enumerate(form.categories, 1):
        _add(
            view,
            "Header",
            size="4",
            value=f"{category.title}: how does Video 2 differ from Video 1?",
        )
        _text_area(view, f"text_{number}")
        _add(
            view,
            "Header",
            size="6",
            value=f"{category.title} score (1: very different; 5: not different)",
        )
        choices = _choices(view, f"score_{number}")
        # ascending, because Label Studio gives the keys 1, 2, ... to choices in their order
        for score in SCORES:
            hint = "; ".join(category.rubric.get(score, ()))
            _add(choices, "Choice", value=str(score), **({"hint": hint} if hint else {}))
    _add(view, "Header", size="4", value="Reject the pair")
    choices = _choices(view, "rejected")
    for reason in form.reject_reasons:
        _add(choices, "Choice", value=reason)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text_area(parent: ElementTree.Element, name: str) -> None:
    _add(
        parent,
        "TextArea",
        name=name,
        toName="video1",
        rows="1",
        maxSubmissions="1",
        editable="true",
    )


def _choices(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    return _add(
        parent, "Choices", name=name, toName="video1", choice="single-radio", showInline="true"
    )
