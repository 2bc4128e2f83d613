"""All files of a world except its pictures, each written whole or not at all."""

import csv
import io
import json
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from stepdiff.kitchen.drawing.video import stills
from stepdiff.kitchen.files import testsets
from stepdiff.kitchen.files.narration import heard, narrate
from stepdiff.kitchen.files.pairqa import caption, paired_questions
from stepdiff.kitchen.steps import ACTIVITIES
from stepdiff.kitchen.world import Video
from stepdiff_core.io.files import write_text

SUBSETS = ("test_seen", "test_unseen", "train", "val_seen", "val_unseen")
"""Of HT-Step's video_splits.json; those that end in `unseen` have the recipes that no training
video follows."""


def write_files(world: list[Video], seed: int, out: Path) -> dict[str, int]:
    """Write every text file of the world; returns the number of rows of each."""
    clips = [clip for video in world for clip in video.clips]
    pieces = {video.uid: narrate(video, seed) for video in world}
    narration = [heard(pieces[clip.video], clip) for clip in clips]
    texts: dict[str, str] = {}
    rows: dict[str, int] = {}

    def table(name: str, columns: str, records: Iterable[tuple[object, ...]]) -> None:
        entries, buffer = list(records), io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([columns.split(), *entries])
        texts[name], rows[name] = buffer.getvalue(), len(entries)

    def lines(name: str, records: Iterable[object]) -> None:
        entries = [json.dumps(record) + "\n" for record in records]
        texts[name], rows[name] = "".join(entries), len(entries)

    table(
        "clips.csv",
        "clip video start end step activity split narration",
        (
            (
                c.id,
                f"videos/{c.video}.mp4",
                f"{c.start:.2f}",
                f"{c.end:.2f}",
                c.truth.step,
                c.activity,
                c.split,
                spoken,
            )
            for c, spoken in zip(clips, narration, strict=True)
        ),
    )
    captions = (
        (name, video.split, caption(clip.truth, random.Random(f"caption {seed} {name}")))
        for video in world
        for name, clip, _ in stills(video)
    )
    table(
        "images.csv",
        "clip video start end split caption",
        (
            (f"{name}_0_1", f"images/{name}.jpg", 0, 1, split, text)
            for name, split, text in captions
        ),
    )
    steps = [
        (activity, index, step)
        for activity, chosen in ACTIVITIES.items()
        for index, step in enumerate(chosen)
    ]
    table(
        "taxonomy.csv",
        "global_step_index activity step_index variation variation_index headline paragraph",
        (
            (number, activity, index, "none", index + 1, f"{step.capitalize()}.", "")
            for number, (activity, index, step) in enumerate(steps)
        ),
    )
    lines("attributes.jsonl", [{"clip": c.id, **asdict(c.truth)} for c in clips])
    train = [clip for clip in clips if clip.split == "train"]
    lines("pairqa_train.jsonl", paired_questions(train, seed, "s1"))
    lines("pairqa_supervised.jsonl", paired_questions(train, seed, "supervised"))
    embedded = narration
    for split, (pairs, rank_rows) in testsets.SIZES.items():
        chosen = [clip for clip in clips if clip.split == split]
        caps = testsets.diffcap(chosen, pairs, seed, split)
        lines(f"diffcap_{split}.jsonl", map(asdict, caps))
        lines(f"diffrank_{split}.jsonl", map(asdict, testsets.diffrank(chosen, rank_rows, seed)))
        embedded += [text for row in caps for text in row.text]
    table("texts.csv", "text", ((text,) for text in dict.fromkeys(embedded) if text))
    number = {(activity, step): place for place, (activity, _, step) in enumerate(steps)}
    contents: dict[str, dict[str, object]] = {
        "annotations.json": {
            video.uid: {
                "subset": video.subset,
                "activity": video.activity,
                "annotations": [
                    {
                        "id": number[video.activity, clip.truth.step],
                        "segment": [clip.start, clip.end],
                    }
                    for clip in video.clips
                ],
            }
            for video in world
        },
        "video_splits.json": {
            subset: [video.uid for video in world if video.subset == subset] for subset in SUBSETS
        },
        "narration.json": {
            uid: {
                name: [getattr(piece, name) for piece in spoken]
                for name in ("start", "end", "text")
            }
            for uid, spoken in pieces.items()
        },
    }
    for name, content in contents.items():
        texts[name], rows[name] = json.dumps(content, indent=1) + "\n", len(content)
    for name, text in texts.items():
        write_text(out / name, text)
    return rows
