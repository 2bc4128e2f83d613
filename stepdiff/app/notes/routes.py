"""Notes about a pair, their files (CSV, JSON, WebVTT with one file for each video), and the coach's
card, at /notes.

Guarantees
- CSV and JSON have every field of every note exactly, and the moment in the video file
- a cue of WebVTT begins at the note's moment in the video file, so that a player shows the notes
  over the whole video
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, Response
from pydantic import AfterValidator, Field

from stepdiff.app.annotating.accounts import MOST_NAME
from stepdiff.app.notes.card import MOST_ANSWER, MOST_NOTES, CardSide, card
from stepdiff.app.notes.notebook import Note, Notebook
from stepdiff.app.pages import OfSite, download, kept, zipped
from stepdiff.app.site import MOST_SECONDS, Sent, Site
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tables import escaped

MOST_TEXT = 500  # characters of a note
CUE = 3.0  # seconds for which a player shows a note
PAST_END = 1.0  # seconds by which a player's clip may be longer than the catalog says


def _one_line(text: str) -> str:
    """Return a text with single spaces. ValueError: it is empty or has control characters."""
    text = " ".join(text.split())
    if not text or re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError("give a text without control characters")
    return text


Form = Literal["csv", "json", "webvtt"]
Line = AfterValidator(_one_line)
Author = Annotated[str, Field(max_length=MOST_NAME), Line]
NoteText = Annotated[str, Field(max_length=MOST_TEXT), Line]
ClipId = Annotated[str, Field(max_length=1000)]
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
Identity = Annotated[str, InPath(pattern="^[0-9a-f]{32}$", description="id of a note")]
Clip = Annotated[
    str | None, Query(max_length=1000, description="clip id; without one, notes of all pairs")
]


class NewNote(Sent):
    """A note at a moment of one video of a pair."""

    reference: ClipId
    candidate: ClipId
    video: Literal[1, 2]
    seconds: Seconds
    author: Author
    text: NoteText


class Deletion(Sent):
    """The author whose note is deleted."""

    author: Author


class Edit(Deletion):
    """Another text of an author's note."""

    text: NoteText


class CardBody(Sent):
    """What a coach's card shows of a pair."""

    reference: ClipId
    candidate: ClipId
    moments: Annotated[list[Seconds], Field(min_length=2, max_length=2, description="in each clip")]
    notes: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=MOST_NOTES)] = []
    question: Annotated[str, Field(max_length=500)] = ""
    answer: Annotated[str, Field(max_length=MOST_ANSWER)] = ""


router = APIRouter(prefix="/notes", tags=["notes"])
OfNotebook = Annotated[Notebook, kept(Notebook)]


def chosen_notes(
    notebook: OfNotebook, reference: Clip = None, candidate: Clip = None
) -> list[Note]:
    """Return the notes of a pair by their moments, or all notes."""
    if reference is None and candidate is None:
        return notebook.every()
    if reference is None or candidate is None:
        raise StepDiffError(
            "a pair has two clips: give reference and candidate, or neither for all notes"
        )
    return notebook.of_pair((reference, candidate))


Chosen = Annotated[list[Note], Depends(chosen_notes)]


@router.get("")
def notes(chosen: Chosen) -> dict[str, list[Note]]:
    """Return the notes of a pair by their moments, or all notes."""
    return {"notes": chosen}


@router.get("/export", response_class=Response)
def file(site: OfSite, form: Form, chosen: Chosen) -> Response:
    """Return the notes of a pair, or all notes, as a file."""
    return download(*export(form, exported(site, chosen)))


@router.post("")
def add(site: OfSite, notebook: OfNotebook, sent: NewNote) -> Note:
    """Store a note."""
    pair = sent.reference, sent.candidate
    clip = site.clips(pair)[sent.video - 1]
    if (
        clip.start is not None
        and clip.end is not None
        and sent.seconds > clip.end - clip.start + PAST_END
    ):
        raise StepDiffError(
            f"Video {sent.video} has {clip.end - clip.start:.2f} s, not {sent.seconds:.2f} s"
        )
    return notebook.add(pair, sent.video, round(sent.seconds, 3), sent.author, sent.text)


@router.post("/{identity}/edit")
def edit(notebook: OfNotebook, identity: Identity, sent: Edit) -> Note:
    """Store another text of a note."""
    return notebook.edit(identity, sent.author, sent.text)


@router.post("/{identity}/delete")
def delete(notebook: OfNotebook, identity: Identity, sent: Deletion) -> dict[str, str]:
    """Remove a note from the list; the database keeps its texts."""
    notebook.delete(identity, sent.author)
    return {"done": "the note is deleted"}


@router.post("/card", response_class=HTMLResponse)
def coach_card(site: OfSite, notebook: OfNotebook, sent: CardBody) -> Response:
    """Return a pair at two moments as one HTML file: frames, the parts around them, notes, question
    and answer."""
    pair = sent.reference, sent.candidate
    listed = [note for note in notebook.of_pair(pair) if note.id in sent.notes]
    sides = [_side(site, key, moment) for key, moment in zip(pair, sent.moments, strict=True)]
    steps = {clip.step for clip in site.clips(pair)}
    step = (steps.pop() if len(steps) == 1 else None) or "two clips"
    title = step[0].upper() + step[1:]
    return download("card.html", card(title, sides, listed, sent.question, sent.answer))


def _side(site: Site, key: str, moment: float) -> CardSide:
    clip = site.clip(key)
    path = site.file(clip)
    assert clip.start is not None and clip.end is not None
    return CardSide(key, path, clip.start, clip.end, min(clip.start + moment, clip.end))


@dataclass(frozen=True)
class ExportedNote(Note):
    """A note, and its moment in the video file."""

    file: str = ""  # path in the folder of videos; empty: the catalog names none
    file_seconds: float | None = None  # null: the catalog names no file


def exported(site: Site, notes: Sequence[Note]) -> list[ExportedNote]:
    """Return notes with their moments in the video files."""
    clips = site.clips_by_id(note.clip for note in notes)
    rows = []
    for note in notes:
        clip, place = clips.get(note.clip), dict[str, Any]()
        if clip is not None and clip.video is not None and clip.start is not None:
            place = {"file": clip.video, "file_seconds": round(clip.start + note.seconds, 3)}
        rows.append(ExportedNote(**asdict(note), **place))
    return rows


def export(form: Form, notes: Sequence[ExportedNote]) -> tuple[str, bytes]:
    """Return name and bytes of a file of notes; the file of WebVTT is an archive."""
    if form == "csv":
        out = io.StringIO()
        rows = csv.DictWriter(out, [field.name for field in fields(ExportedNote)])
        rows.writeheader()
        for note in notes:
            rows.writerow(
                {name: escaped(v) if isinstance(v, str) else v for name, v in asdict(note).items()}
            )
        return "notes.csv", out.getvalue().encode()
    if form == "json":
        text = json.dumps(list(map(asdict, notes)), ensure_ascii=False, indent=1) + "\n"
        return "notes.json", text.encode()
    return "notes_webvtt.zip", _archive(notes)


def _archive(notes: Sequence[ExportedNote]) -> bytes:
    """Return a ZIP archive with the cues of each video; of a clip without a file, in seconds of the
    clip."""
    by_video: dict[str, list[ExportedNote]] = defaultdict(list)
    for note in notes:
        by_video[note.file or note.clip].append(note)
    files = {}
    for number, video in enumerate(sorted(by_video), start=1):
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\.\w+$", "", video))[-80:]
        files[f"{number}_{name}.vtt"] = webvtt(by_video[video])
    return zipped(files)


def webvtt(notes: Sequence[ExportedNote]) -> str:
    """Return the notes of one video as WebVTT, each spoken by its author."""
    cues = []
    for note in notes:
        start = note.seconds if note.file_seconds is None else note.file_seconds
        voice, text = (escape(part, quote=False) for part in (note.author, note.text))
        cues.append((start, f"{_stamp(start)} --> {_stamp(start + CUE)}\n<v {voice}>{text}\n"))
    return "\n".join(["WEBVTT\n", *(cue for _, cue in sorted(cues, key=lambda cue: cue[0]))])


def _stamp(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return (
        f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
    )
