"""Clips that never train: clips of published test sets, clips that overlap them in time, and clips
of their videos.

A test set names its clips by published ids, `<uid>_<start>_<end>`, split from the right, or by ids
of any other form, whose videos and times only the catalog knows. A clip of the catalog is held out
for the first of these reasons that applies (`REASONS`): its id is in a test set; it overlaps a test
clip of the same video; it is of the video of a test clip. With `hold_out_by: clip` the last reason
is not used.

Two clips, one of them a test clip, are of the same video as follows:

- Both have a file, that is, the catalog's `video` has a folder or an extension: the values are
  equal. `a/video.mp4` and `b/video.mp4` are two videos, and the names of files and ids do not
  matter.
- At least one has only names, because the catalog lacks the clip, has no `video` for it, or has a
  `video` without folder and extension: they have a name in common. The names of a test clip are the
  uid of its id and such a `video`; the names of another clip are the uid of its id, if that has the
  published form, and the stem of its `video`.

Clips that validate a run do not train it either. `drawn_clips` draws them: all clips of a share of
the videos, or a share of the clips. A hash of seed and video decides, so the clips do not depend on
the other clips of the catalog, and runs of one seed hold out the same videos.

A clip of another file that has a name of a test clip is kept and counted as a namesake, so that a
video stored under two paths does not go unnoticed. A clip without times, a test clip or another,
overlaps every clip of its video.

Guarantees
- a clip of a test set, or one that overlaps it, never trains; by video, no other clip of its video
  does either
- runs of one seed hold out the same videos, and a larger share adds to them
- a catalog is read in blocks: memory depends on the held-out clips
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from heads.data.catalog_rows import Clips, blocks, of_keys
from heads.data.clips import Features
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.sealed import copied
from stepdiff_core.streams import sequence
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.testsets import clips_of, parts_of, read_test_set, task_of
from stepdiff_core.weights import fingerprint
from store import Store

By = Literal["video", "clip"]
BY_ID, BY_OVERLAP, BY_VIDEO = REASONS = (
    "clip of a test set",
    "overlaps a clip of a test set",
    "of the video of a test clip",
)
VALIDATES = "held out for validation"
NO_FEATURES = "without features"
NAMESAKE = "another file with the name of a test video"
"""not a reason to hold a clip out"""
COLUMNS = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
"""columns by which clips are compared"""
_TIMES, _NAMES = ("start", "end"), ("uid", "stem")
UID = pl.col("key").str.extract(r"^(.+)_[0-9][0-9.eE+-]*_[0-9][0-9.eE+-]*$")
"""the video that a published id names"""
_STEM = pl.col("video").str.extract(r"([^/]+?)(?:\.[^./]*)?$")
VIDEO = pl.coalesce(pl.when(pl.col("video") != "").then("video"), UID)
"""the video of a clip (key, video): the catalog's, else the uid of its id"""


def read_test_clips(sources: Sequence[str]) -> pl.DataFrame:
    """Return `clip_times` of the clips of test sets. StepDiffError: a file does not exist or is not
    a test set."""
    return clip_times(
        clip for source in sources for row in _test_rows(source) for clip in clips_of(row)
    )


def test_path(source: str) -> str:
    """Return the file or folder of a test set: of TASK=FOLDER the folder of a benchmark."""
    task, equals, folder = source.partition("=")
    return folder if equals and "/" not in task and not Path(source).exists() else source


def test_digest(source: str) -> str:
    """Return the sha256 hex of a file, or for TASK=FOLDER of the clips' ids: videos may be in the
    folder too."""
    if (path := test_path(source)) == source:
        return fingerprint(path)
    return hashlib.sha256("\n".join(read_test_clips([source])["key"]).encode()).hexdigest()


def _test_rows(source: str) -> list[Any]:
    path = test_path(source)
    if path != source:
        return registry.get(source.partition("=")[0], "--hold-out").read(Path(path)).rows
    if Path(path).is_dir():
        raise StepDiffError(
            f"--hold-out {path}: a folder; name its task, as --hold-out convis={path}"
        )
    return read_test_set(task_of(path), path)


def clip_times(clips: Iterable[str]) -> pl.DataFrame:
    """Return key, start and end (seconds) of clips, each once, sorted; no times for ids of another
    than the published form."""
    rows = []
    for clip in sorted(set(clips)):
        _, start, end = parts_of(clip) or ("", None, None)
        rows.append((clip, start and float(start), end and float(end)))
    return pl.DataFrame(
        rows, schema={"key": pl.String, "start": pl.Float64, "end": pl.Float64}, orient="row"
    )


def known_clips(store: Store, *more: str) -> pl.DataFrame:
    """Read key, video, start, end, split and the columns `more` of every clip of a store's catalog.

    The first five are null if the catalog has no value; columns of `more` that it lacks are left
    out.
    """
    kinds = COLUMNS | {"split": pl.String}
    frame = store.catalog("clips").frame(list(dict.fromkeys([*kinds, *more])))
    return frame.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in kinds.items() if name not in frame.columns
    )


def identified(clips: pl.DataFrame) -> pl.DataFrame:
    """Return key, start, end (seconds), file, uid and stem of clips (COLUMNS); null where unknown.

    file: the catalog's `video` if it has a folder or an extension; stem: its name without them.
    """
    frame = clips.lazy().with_columns(pl.col(_TIMES).fill_nan(None), uid=UID, stem=_STEM)
    frame = frame.with_columns(file=pl.when(pl.col("video") != pl.col("stem")).then("video"))
    return frame.select("key", *_TIMES, "file", "uid", "stem").collect(engine="streaming")


def locate(catalog: Clips, test: pl.DataFrame) -> pl.DataFrame:
    """Return the clips of test sets with the columns of `identified`, from the catalog or else from
    their ids.

    A test clip with a file has no stem: its id names its video, and `<uid>/video.mp4` would give
    all videos one name.
    """
    in_catalog = identified(of_keys(catalog, test["key"], COLUMNS))
    located = test.rename({name: f"{name}_of_id" for name in _TIMES}).join(
        in_catalog, on="key", how="left"
    )
    times = [pl.coalesce(name, f"{name}_of_id").alias(name) for name in _TIMES]
    located = located.with_columns(
        *times, uid=UID, stem=pl.when(pl.col("file").is_null()).then("stem")
    )
    return located.select("key", *_TIMES, "file", "uid", "stem")


def held_out(catalog: Clips, test: pl.DataFrame, by: By = "video") -> pl.DataFrame:
    """Return key and reason of clips that must not train, also of test clips that the catalog
    lacks, and of namesakes.

    test: as `read_test_clips` returns them; by: whether other clips of a test clip's video are held
    out too.
    """
    tests = locate(catalog, test)
    theirs, point = _points(tests), ["what", "is_file"]
    one_has_only_names = pl.any_horizontal(pl.col("file", "file_right").is_null())
    apart = pl.any_horizontal(
        pl.col("start") >= pl.col("end_right"), pl.col("end") <= pl.col("start_right")
    )
    matches = {
        "of_video": pl.col("is_file") | one_has_only_names,
        "overlaps": ~apart.fill_null(False),
    }
    parts = []
    for block in blocks(catalog, COLUMNS):
        # of a clip and a test clip at the same point
        pairs = _points(identified(block)).join(theirs, on=point)
        parts.append(copied(pairs.select("key", **matches).unique().collect(engine="streaming")))
    met = pl.concat(parts)
    reasons = [
        tests.select("key", reason=pl.lit(BY_ID)),
        met.filter("of_video", "overlaps").select("key", reason=pl.lit(BY_OVERLAP)),
        met.filter("of_video").select("key", reason=pl.lit(BY_VIDEO)),
        met.filter(~pl.col("of_video")).select("key", reason=pl.lit(NAMESAKE)),
    ]
    first = pl.concat(reasons).unique("key", keep="first", maintain_order=True)
    return first if by == "video" else first.filter(pl.col("reason") != BY_VIDEO)


def _points(clips: pl.DataFrame) -> pl.LazyFrame:
    """Return each clip at its file and at each of its names, where it meets clips of the same
    video, or namesakes."""
    at = [
        clips.lazy().with_columns(what=pl.col(name), is_file=pl.lit(name == "file"))
        for name in ("file", *_NAMES)
    ]
    return pl.concat(at).filter(pl.col("what").is_not_null())


def drawn_clips(catalog: Clips, share: float, by: By, seed: int) -> pl.Series:
    """Return the keys of the clips of a share of the videos, or of a share of the clips.

    catalog: key and, if known, video. A clip whose video is unknown counts as a video of its own.
    """
    salt = sequence(seed, "validation videos").generate_state(4).astype("<u4").tobytes()
    keys, below = [pl.Series("key", [], pl.String)], share * 2**64
    for block in blocks(catalog, {"key": pl.String, "video": pl.String}):
        clips = block.select("key", name=pl.coalesce(VIDEO, "key") if by == "video" else "key")
        names = clips["name"].unique()
        hashes = (
            hashlib.blake2b(name.encode(), key=salt, digest_size=8).digest() for name in names
        )
        chosen = pl.Series(
            [int.from_bytes(one, "little") < below for one in hashes], dtype=pl.Boolean
        )
        drawn = clips.join(
            names.filter(chosen).to_frame(), on="name", how="semi", maintain_order="left"
        )
        keys.append(copied(drawn.select("key"))["key"])
    return pl.concat(keys)


class HoldOut:
    """The clips that a training holds out, of test sets and for its validation, and the number of
    clips that each of its sources dropped."""

    def __init__(
        self, files: Sequence[str] = (), by: By = "video", skip_missing: bool = False
    ) -> None:
        """Read the test sets. StepDiffError: one of them does not exist or is not a test set.

        skip_missing: leave pairs of clips without features out, instead of refusing them.
        """
        self.files, self.by, self.test, self.skip_missing = (
            tuple(files),
            by,
            read_test_clips(files),
            skip_missing,
        )
        self.sources: dict[str, dict[str, int]] = {}
        """source -> its number of clips or pairs (`of`), and the dropped ones by reason"""
        self.reasons: tuple[str, ...] = REASONS if files else ()
        self._example = ""  # a namesake
        self.clips = self.namesakes = pl.DataFrame(schema={"key": pl.String, "reason": pl.String})

    def look_up(self, catalog: Clips, validating: pl.Series | None = None) -> None:
        """Find the clips to drop. validating: those that validate the run; None if no share of the
        clips does."""
        if self.files:
            reasons, is_namesake = (
                held_out(catalog, self.test, self.by),
                pl.col("reason") == NAMESAKE,
            )
            self.clips, self.namesakes = reasons.filter(~is_namesake), reasons.filter(is_namesake)
        if validating is not None:
            self.reasons = (*(REASONS if self.files else ()), VALIDATES)
            chosen = pl.DataFrame({"key": validating}).join(self.clips, on="key", how="anti")
            self.clips = pl.concat([self.clips, chosen.with_columns(reason=pl.lit(VALIDATES))])

    def leave_out_absent(self, pairs: Sequence[tuple[str, str]], features: Features) -> None:
        """Leave out clips that lack features, of pairs that train or validate otherwise.
        StepDiffError: there are some, without `skip_missing`."""
        reasons = self._reasons_of(self.clips, pairs)
        kinds = {pair: {reasons.get(clip) for clip in pair} for pair in pairs}
        used = dict.fromkeys(
            clip for pair in pairs if kinds[pair] in ({None}, {VALIDATES}) for clip in pair
        )
        if keys := features.lacking(list(used), self.skip_missing):
            absent = pl.DataFrame({"key": keys}, {"key": pl.String}).with_columns(
                reason=pl.lit(NO_FEATURES)
            )
            self.clips = pl.concat([self.clips.join(absent, on="key", how="anti"), absent])
            self.reasons = (*self.reasons, NO_FEATURES)

    @property
    def validating(self) -> pl.Series:
        """Keys of the clips that validate the run, without clips of test sets and of their
        videos."""
        return self.clips.filter(pl.col("reason") == VALIDATES)["key"]

    def validating_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether both clips of each pair validate."""
        reasons = self._reasons_of(self.clips, pairs)
        return [all(reasons.get(clip) == VALIDATES for clip in pair) for pair in pairs]

    def kept(self, blocks: Iterable[pl.DataFrame], source: str) -> Iterator[pl.DataFrame]:
        """Yield the clips (key, ...) of the blocks that may train, in order, and count the others.
        StepDiffError, after the last block: none is left."""
        if not self.reasons:
            yield from blocks
            return
        total, dropped, named, example = 0, [pl.Series("reason", [], pl.String)], 0, ""
        for clips in blocks:
            total += clips.height
            dropped.append(clips.select("key").join(self.clips, on="key")["reason"])
            namesakes = clips.join(self.namesakes, on="key", how="semi")["key"]
            named, example = (
                named + len(namesakes),
                example or (namesakes[0] if len(namesakes) else ""),
            )
            yield clips.join(self.clips, on="key", how="anti", maintain_order="left")
        self._count(source, total, pl.concat(dropped), named, example)

    def validates(self, blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Yield the clips (key, ...) of the blocks that validate."""
        keys = self.validating.implode()
        return (clips.filter(pl.col("key").is_in(keys)) for clips in blocks)

    def keep_pairs(self, pairs: Sequence[tuple[str, str]], source: str) -> list[bool]:
        """Return whether both clips of each pair may train, and count the other pairs by the first
        reason of either. StepDiffError: none is left."""
        if not self.reasons:
            return [True] * len(pairs)
        reasons, namesakes = (
            self._reasons_of(self.clips, pairs),
            sorted(self._reasons_of(self.namesakes, pairs)),
        )
        of_pairs = [{reasons[clip] for clip in pair if clip in reasons} for pair in pairs]
        dropped = [min(of_pair, key=self.reasons.index) for of_pair in of_pairs if of_pair]
        named = namesakes[0] if namesakes else ""
        self._count(
            source, len(pairs), pl.Series("reason", dropped, pl.String), len(namesakes), named
        )
        return [not of_pair for of_pair in of_pairs]

    @staticmethod
    def _reasons_of(clips: pl.DataFrame, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Return key and reason of the `clips` that are in a pair."""
        keys = pl.Series(list({clip for pair in pairs for clip in pair}), dtype=pl.String)
        return dict(clips.filter(pl.col("key").is_in(keys.implode())).iter_rows())

    def _count(
        self, source: str, total: int, reasons: pl.Series, namesakes: int, example: str
    ) -> None:
        """Record the clips that a source dropped, and the namesakes that it kept. StepDiffError:
        nothing is left."""
        counts = dict(reasons.value_counts(name="count").iter_rows())
        self.sources[source] = {"of": total} | {
            reason: counts.get(reason, 0) for reason in self.reasons
        }
        if total and len(reasons) == total:
            raise StepDiffError(
                f"hold_out leaves nothing of {source} to train on: {self._summary(source)}; train "
                "on other clips, set hold_out_by: clip if other clips of a test video may train, "
                "or lower a validation's share"
            )
        if namesakes:
            self.sources[source][NAMESAKE] = namesakes
            self._example = example

    def _summary(self, source: str) -> str:
        counts = self.sources[source]
        dropped = [f"{counts[reason]:,} {reason}" for reason in self.reasons if counts[reason]]
        total = sum(counts[reason] for reason in self.reasons)
        return f"{total:,} of {counts['of']:,} dropped" + (
            f" ({', '.join(dropped)})" if dropped else ""
        )

    def lines(self) -> list[str]:
        """Return lines about dropped clips: a summary, one per source, and one about namesakes if
        there are any."""
        lines = []
        if self.files:
            lines.append(
                f"hold-out by {self.by}: {self.test.height:,} clips of {len(self.files)} test sets"
            )
        if VALIDATES in self.reasons:
            lines.append(f"hold-out: {len(self.validating):,} clips for validation")
        lines += [f"hold-out, {source}: {self._summary(source)}" for source in self.sources]
        if namesakes := max(
            (counts.get(NAMESAKE, 0) for counts in self.sources.values()), default=0
        ):
            lines.append(
                f"hold-out: {namesakes:,} clips with the name of a test video, but another file, "
                f"are kept, e.g. {self._example}; if it is the same video, give it one name in "
                "`video`"
            )
        return lines

    def record(self) -> dict[str, object] | None:
        """Return the record in lineage.json; None if nothing is held out."""
        if not self.reasons:
            return None
        return {
            "by": self.by,
            "files": list(self.files),
            "test_clips": self.test.height,
            "sources": self.sources,
        }
