"""All files of a world but its pictures, written whole or not at all."""

import csv
import io
import json
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from common.io.files import write_text
from kitchen.drawing.video import stills
from kitchen.files import htstep, testsets
from kitchen.files.narration import heard, narrate
from kitchen.files.pairqa import paired_questions
from kitchen.files.texts import caption
from kitchen.world import Video


def _csv(rows: list[dict[str, object]], columns: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_files(world: list[Video], seed: int, out: Path) -> dict[str, int]:
    """Write every text file of the world; returns the number of rows of each."""
    clips = [clip for video in world for clip in video.clips]
    pieces = {video.uid: narrate(video, seed) for video in world}
    texts: dict[str, str] = {}
    rows: dict[str, int] = {}

    def table(name: str, records: list[dict[str, object]], columns: tuple[str, ...]) -> None:
        texts[name], rows[name] = _csv(records, columns), len(records)

    def lines(name: str, records: Iterable[object]) -> None:
        found = [json.dumps(record) + "\n" for record in records]
        texts[name], rows[name] = "".join(found), len(found)

    table(
        "clips.csv",
        [
            {
                "clip": clip.id,
                "video": f"videos/{clip.video}.mp4",
                "start": f"{clip.start:.2f}",
                "end": f"{clip.end:.2f}",
                "step": clip.truth.step,
                "activity": clip.activity,
                "split": clip.split,
                "narration": heard(pieces[clip.video], clip),
            }
            for clip in clips
        ],
        ("clip", "video", "start", "end", "step", "activity", "split", "narration"),
    )
    table(
        "images.csv",
        [
            {
                "clip": f"{name}_0_1",
                "video": f"images/{name}.jpg",
                "start": 0,
                "end": 1,
                "split": video.split,
                "caption": caption(clip.truth, random.Random(f"caption {seed} {name}")),
            }
            for video in world
            for name, clip, _ in stills(video)
        ],
        ("clip", "video", "start", "end", "split", "caption"),
    )
    table("taxonomy.csv", htstep.taxonomy(), htstep.COLUMNS)
    lines("attributes.jsonl", [{"clip": c.id, **c.truth.as_dict()} for c in clips])
    lines("pairqa_train.jsonl", paired_questions([c for c in clips if c.split == "train"], seed))
    said = [heard(pieces[clip.video], clip) for clip in clips]
    for split, (captions, choices, ranks) in testsets.SIZES.items():
        own = [clip for clip in clips if clip.split == split]
        caps, choices_made = testsets.diffcap(own, captions, seed), testsets.diffmcq(own, choices, seed)
        lines(f"diffcap_{split}.jsonl", map(asdict, caps))
        lines(f"diffmcq_{split}.jsonl", map(asdict, choices_made))
        lines(f"diffrank_{split}.jsonl", map(asdict, testsets.diffrank(own, ranks, seed)))
        said += [text for row in caps for text in row.text] + [row.difference for row in choices_made]
    table("texts.csv", [{"text": text} for text in dict.fromkeys(said) if text], ("text",))
    for name, content in (
        ("annotations.json", htstep.annotations(world)),
        ("video_splits.json", htstep.splits(world)),
        (
            "narration.json",
            {
                uid: {
                    "start": [p.start for p in found],
                    "end": [p.end for p in found],
                    "text": [p.text for p in found],
                }
                for uid, found in pieces.items()
            },
        ),
    ):
        texts[name], rows[name] = json.dumps(content, indent=1) + "\n", len(content)
    for name, text in texts.items():
        write_text(out / name, text)
    return rows
