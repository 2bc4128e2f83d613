"""Captioned images as clips: webdataset tar files, and the output of img2dataset.

    00000.tar                   members KEY.jpg (jpeg, png, webp, bmp) with KEY.txt, or KEY.json
                                with "caption"
    00000.parquet               img2dataset's table (key, caption, status) of the images in
                                00000.tar or in 00000/
    a folder                    its tar files, or without any its .parquet files
    images-{00000..00999}.tar   the files from 00000 to 00999

An image is a clip of one second whose one frame every encoder repeats. Its id is `<stem of the
file>/<key>`, never a position. Its video is the path `FILE.tar/MEMBER`, which is read in place. The
key of a member is its name up to the first dot after the last slash, as webdataset has it.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import polars as pl

from stepdiff.annotate.sources.blocks import Clip, in_blocks
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.files import open_regular, refuse_links_out
from stepdiff_core.io.tars import DamagedTar, Member, members, safe_name
from stepdiff_core.progress import progress

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
MOST_CAPTION = 2**20  # bytes of a caption or of its .json, at most
NO_CAPTION = "images without a caption"
NO_IMAGE = "captions without an image"
NOT_DOWNLOADED = "images that img2dataset did not get"
REFUSED = "links, devices, sparse files and unsafe names"
TWICE = "images of a key that has one already"
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


def read_images(
    sources: Sequence[str], folder: Path, left_out: Counter[str]
) -> Iterator[pl.DataFrame]:
    """Yield blocks of images with captions; their videos are paths from `folder`, the folder of the
    manifest."""
    files = _files(sources)

    def images() -> Iterator[list[Clip]]:
        with progress("tar files and tables", len(files), "files") as advance:
            for file in files:
                read = _of_tar if file.suffix == ".tar" else _of_table
                for key, place, caption in read(file, left_out):
                    yield [
                        (
                            f"{file.stem}/{key}",
                            os.path.relpath(place, folder),
                            0.0,
                            1.0,
                            "train",
                            caption,
                        )
                    ]
                advance(1)

    return in_blocks(images(), "caption")


def _files(sources: Iterable[str]) -> list[Path]:
    files = [file for one in sources for name in _expanded(one) for file in _in_folder(Path(name))]
    seen: dict[str, Path] = {}
    for file in files:
        if file.suffix not in (".tar", ".parquet"):
            raise StepDiffError(
                f"{file}: neither a .tar file nor a .parquet of img2dataset; give one of these, or "
                "a folder"
            )
        if not file.is_file():
            raise StepDiffError(f"{file}: no such file; correct --images")
        if (other := seen.setdefault(file.stem, file)) is not file:
            raise StepDiffError(
                f"{other} and {file} would give two images one id; rename one, or leave it out"
            )
    return files


def _expanded(name: str) -> Iterator[str]:
    if (span := _RANGE.search(name)) is None:
        yield name
        return
    for number in range(int(span[1]), int(span[2]) + 1):
        yield from _expanded(
            name[: span.start()] + str(number).zfill(len(span[1])) + name[span.end() :]
        )


def _in_folder(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    refuse_links_out(path)
    for suffix in ("tar", "parquet"):
        if files := sorted(path.glob(f"*.{suffix}")):
            return files
    raise StepDiffError(f"{path}: no .tar file and no .parquet in this folder; correct --images")


def _of_tar(tar: Path, left_out: Counter[str]) -> Iterator[tuple[str, Path, str]]:
    images: dict[str, str] = {}
    captions: dict[str, dict[str, str]] = {}
    for file, member in _members(tar, left_out):
        folder, slash, last = member.name.rpartition("/")
        stem, _, kind = last.partition(".")
        key, kind = folder + slash + stem, kind.lower()
        if not member.name:
            left_out[REFUSED] += 1
        elif kind in IMAGES:
            left_out[TWICE] += images.setdefault(key, member.name) != member.name
        elif kind in ("txt", "json") and (text := _caption(file, member, kind)):
            captions.setdefault(key, {}).setdefault(kind, text)
    left_out[NO_CAPTION] += len(images.keys() - captions.keys())
    left_out[NO_IMAGE] += len(captions.keys() - images.keys())
    for key, name in images.items():
        if of_key := captions.get(key):
            yield key, tar / name, of_key.get("txt") or of_key["json"]


def _members(tar: Path, left_out: Counter[str]) -> Iterator[tuple[IO[bytes], Member]]:
    """Yield the open file and each member before the first damage, which is counted."""
    with open_regular(tar, "a tar file") as file:
        try:
            yield from ((file, member) for member in members(file, tar))
        except DamagedTar as error:
            left_out[str(error)] += 1


def _caption(file: IO[bytes], member: Member, kind: str) -> str:
    """Return the caption in a member, empty if it has none."""
    if member.size > MOST_CAPTION:
        return ""
    text = os.pread(file.fileno(), member.size, member.offset).decode(errors="replace")
    caption: Any = text
    if kind == "json":
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        caption = entry.get("caption") if isinstance(entry, dict) else None
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def _of_table(table: Path, left_out: Counter[str]) -> Iterator[tuple[str, Path, str]]:
    try:
        scan = pl.scan_parquet(table, glob=False)
        schema = scan.collect_schema()
        if set(IMAGES) & set(schema):
            why = (
                "holds the images themselves; run img2dataset with output_format webdataset or "
                "files"
            )
            raise StepDiffError(f"{table}: {why}")
        if missing := {"key", "caption", "status"}.difference(schema):
            why = "give the .parquet that img2dataset writes next to images"
            raise StepDiffError(f"{table}: no column {min(missing)}; {why}")
        rows = scan.select(pl.col("key", "caption", "status").cast(pl.String)).collect()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        # panics on damaged files
        raise StepDiffError(
            f"{table}: cannot be read ({first_line(error)}); copy it again"
        ) from error
    tar = table.with_suffix(".tar")
    in_tar = {member.name for _, member in _members(tar, left_out)} if tar.is_file() else None
    for key, caption, status in rows.iter_rows():
        if status != "success":
            left_out[NOT_DOWNLOADED] += 1
        elif not (caption and (text := " ".join(caption.split()))):
            left_out[NO_CAPTION] += 1
        elif not key or safe_name(key) != key:
            left_out[REFUSED] += 1
        elif (place := _place(table.with_suffix(""), tar, key, in_tar)) is None:
            left_out[NO_IMAGE] += 1
        else:
            yield key, place, text


def _place(folder: Path, tar: Path, key: str, in_tar: set[str] | None) -> Path | None:
    """Return the path of an image: in the tar file, whose names are `in_tar`, or in the folder;
    None: it has none."""
    for name in (f"{key}.{kind}" for kind in IMAGES):
        if (folder / name).is_file() if in_tar is None else name in in_tar:
            return (folder if in_tar is None else tar) / name
    return None
