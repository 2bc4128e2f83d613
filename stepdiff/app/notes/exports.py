"""Notes as files: CSV, JSON, and WebVTT with one file for each video.

Guarantees
- CSV and JSON have every field of every note exactly, and where the moment is in the video file
- a cue of WebVTT begins at the note's moment in the video file, so that a player shows the notes over the whole video
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any, Literal

from stepdiff.app.notes.notebook import Note
from stepdiff.app.pages import zipped
from stepdiff.app.site import Site

Form = Literal["csv", "json", "webvtt"]
CUE = 3.0  # seconds for which a player shows a note


@dataclass(frozen=True)
class ExportedNote(Note):
    """A note, and its moment in the video file."""

    file: str = ""  # path in the folder of videos; empty: the catalog names none
    file_seconds: float | None = None  # null: the catalog names no file


def exported(site: Site, notes: Sequence[Note]) -> list[ExportedNote]:
    """Return notes with their moments in the video files."""
    known = site.known(note.clip for note in notes)
    rows = []
    for note in notes:
        clip, place = known.get(note.clip), dict[str, Any]()
        if clip is not None and clip.video is not None and clip.start is not None:
            place = {"file": clip.video, "file_seconds": round(clip.start + note.seconds, 3)}
        rows.append(ExportedNote(**asdict(note), **place))
    return rows


def export(form: Form, notes: Sequence[ExportedNote]) -> tuple[str, bytes]:
    """Return name and bytes of a file of notes; that of WebVTT is an archive."""
    if form == "csv":
        out = io.StringIO()
        rows = csv.DictWriter(out, [field.name for field in fields(ExportedNote)])
        rows.writeheader()
        rows.writerows(map(asdict, notes))
        return "notes.csv", out.getvalue().encode()
    if form == "json":
        text = json.dumps(list(map(asdict, notes)), ensure_ascii=False, indent=1) + "\n"
        return "notes.json", text.encode()
    return "notes_webvtt.zip", _archive(notes)


def _archive(notes: Sequence[ExportedNote]) -> bytes:
    """Return a ZIP archive with the cues of each video; of a clip without a file, in seconds of the clip."""
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
        voice, text = (escape(said, quote=False) for said in (note.author, note.text))
        cues.append((start, f"{_stamp(start)} --> {_stamp(start + CUE)}\n<v {voice}>{text}\n"))
    return "\n".join(["WEBVTT\n", *(cue for _, cue in sorted(cues, key=lambda cue: cue[0]))])


def _stamp(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
