"""ViDiC-1K's files: pairs of clips, a checklist of questions about each, and the prompts to the method and the judge.

The folder holds checklist.json, prompt_get_response.txt and prompt_judge.txt as the authors publish them, next to one
another or in their folders checklist/ and prompt/. Pairs are named by the paths of their two videos, never by the
published index, which begins at 0 in one file and at 1 in another.

Guarantees
- pairs_are_joined_by_their_paths
- the_prompts_are_those_of_the_folder
"""

import ast
import hashlib
import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, write_text
from stepdiff.tasks.benchmarks.published_files import read_entries, read_whole, text_of, value_of
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Writing, check_keys
from stepdiff.tasks.spec import Asked, ClipFile

SOURCE = "NJU-LINK/ViDiC-1K on Hugging Face (checklist) and on GitHub (prompts)"
Section = Literal["Similarities", "Differences"]
SECTIONS: tuple[Section, ...] = get_args(Section)
NUMBERED = "\n\nVideo A is Video 1. Video B is Video 2."
"""ours, after the published prompt: methods show clips under numbers"""


@dataclass(frozen=True)
class Check:
    """A question about a pair, which a judge answers from a text alone."""

    section: Section
    category: str
    question: str
    answer: str
    """yes or no"""


def read(folder: Path) -> Asked:
    """Read checklist and prompts. Raises StepDiffError: a file is missing or damaged."""
    path = _file(folder, "checklist.json", "checklist")
    prompt = _text(_file(folder, "prompt_get_response.txt", "prompt")) + NUMBERED
    judging = judge_template(_file(folder, "prompt_judge.txt", "prompt"))
    rows, truth = [], {}
    for place, entry in read_entries(path, SOURCE, "pair"):
        try:
            clips = (text_of(entry, "video1_path"), text_of(entry, "video2_path"))
            row = Writing(" | ".join(clips), clips, prompt)
            truth[row.key] = tuple(_checks(value_of(entry, "structured_analysis")))
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}; get the file again from {SOURCE}") from error
        rows.append(row)
    check_keys(rows, str(path))
    digest = hashlib.sha256(read_whole(path, SOURCE)).hexdigest()
    counts = {section: sum(c.section == section for own in truth.values() for c in own) for section in SECTIONS}
    notes = (
        f"checklist sha256 {digest}: {len(rows)} pairs, {sum(counts.values())} questions "
        f"({counts['Similarities']} on similarities, {counts['Differences']} on differences); its versions differ, so "
        "compare figures of one digest only",
    )
    return Asked(rows, truth, notes, {"judge": judging}, digest)


def _checks(sections: Any) -> Iterator[Check]:
    if not isinstance(sections, dict) or set(sections) - set(SECTIONS):
        raise StepDiffError(f"'structured_analysis' has other keys than {' and '.join(SECTIONS)}")
    for section in SECTIONS:
        items = sections.get(section, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise StepDiffError(f"{section!r} is not a list of questions")
        for item in items:
            answer = text_of(item, "correct_answer").lower()
            if answer not in ("yes", "no"):
                raise StepDiffError(f"'correct_answer' is {answer!r}, neither yes nor no")
            yield Check(section, text_of(item, "class"), text_of(item, "question"), answer)


def _file(folder: Path, name: str, inside: str) -> Path:
    found = next((path for path in (folder / name, folder / inside / name) if path.is_file()), None)
    if found is None:
        raise StepDiffError(f"{folder}: has no {name}; get it from {SOURCE}")
    return found


def _text(path: Path) -> str:
    try:
        return read_whole(path, SOURCE).decode()
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{path}: cannot be read as UTF-8 ({error}); get it again from {SOURCE}") from None


def judge_template(path: Path) -> str:
    """Return the prompt to the judge, with fields {description} and {question}.

    The published file holds the text as Python strings, a line each; a file of plain text is taken as it is.
    """
    text = _text(path)
    try:
        found = ast.literal_eval(f"({text})")
    except (SyntaxError, ValueError):
        found = text
    template = found if isinstance(found, str) else text
    try:
        fields = {tuple(field) for _, *field in string.Formatter().parse(template) if field[0] is not None}
    except ValueError:  # a brace alone
        fields = set()
    if fields != {(name, "", None) for name in ("description", "question")}:
        raise StepDiffError(f"{path}: its fields are not {{description}} and {{question}}; get it again from {SOURCE}")
    return template


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the videos of all pairs, each once; a clip is a whole file and has its path as its id."""
    for path in dict.fromkeys(clip for row in read(folder).rows for clip in row.clips):
        yield ClipFile(path, path, metadata={"source": path.removeprefix("data/").split("/")[0]})


def export(_: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Any], folder: Path) -> list[Path]:
    """Write texts as the authors' responses, for their judge."""
    entries = [
        {"index": number, "video1_path": row.clips[0], "video2_path": row.clips[1], "response": text}
        for number, (row, text) in enumerate(zip(rows, predictions, strict=True), 1)
        if text is not None
    ]
    make_folder(folder)
    write_text(folder / "response.json", json.dumps(entries, indent=2))
    return [folder / "response.json"]


def read_responses(path: Path, rows: Sequence[Writing]) -> list[str | None]:
    """Return the text of each pair from a file of responses in the authors' format, None for a pair that it lacks.

    Raises:
        StepDiffError: The file is damaged, or has a pair twice or one that the rows lack.
    """
    known = {row.clips for row in rows}
    found: dict[tuple[str, ...], str] = {}
    for place, entry in read_entries(path, "the method that wrote it", "response"):
        clips = (text_of(entry, "video1_path"), text_of(entry, "video2_path"))
        if clips not in known or clips in found:
            why = "there twice" if clips in found else "not a pair of the checklist"
            raise StepDiffError(f"{place}: {' | '.join(clips)} is {why}; remove it")
        text = value_of(entry, "response")
        found[clips] = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return [found.get(row.clips) for row in rows]
