"""Files of ConViS-Bench: answers of people, clips, captions, lists of retrieval, and predictions.

A folder holds the authors' repository, the data set that they publish, or both; a flat folder of the same files works
too.

    human_annotations/vicos.user_inputs.json, or user_inputs.json      scores of people, 1 (different) to 5 (the same)
    human_annotations/to_be_ranked.json, or to_be_ranked.json          clips and the four clips to rank for each
    ConVIS.jsonl                                                       the videos' files, videos_trimmed/DOMAIN/CLIP.mp4
    captions/MODEL/CLIP.txt, or one JSON object {clip: text}           captions of the clips

A clip's id is its file's name without folder and suffix, <video>_<number of the clip>: captions and features of the
authors have the same names. Such an id has two parts and is never taken for <video_uid>_<start>_<end>, which has three.

Guarantees
- an id that reads as seconds of a video is refused
- a pair of predictions is matched by its clips' ids in the given order
- a prediction of 0.0 in a published file counts as 3.0
- exported predictions read back in the same order, zeros too
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, write_text
from stepdiff.common.io.jsonl import read_objects
from stepdiff.tasks.benchmarks.published_files import read_entries, read_json, text_of, value_of
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Rating
from stepdiff.tasks.benchmarks.summary import scores_of
from stepdiff.tasks.spec import ClipFile
from stepdiff.tasks.testsets import Pair, Prediction, parts_of

SOURCE = "github.com/benedettaliberatori/convisbench"
VIDEOS = "the data set bliberatori/ConViS-Bench"
ANSWERS = ("human_annotations/vicos.user_inputs.json", "user_inputs.json")
RANKINGS = ("human_annotations/to_be_ranked.json", "to_be_ranked.json")
SCORES = tuple("12345")
UNPARSED, NEUTRAL = 0.0, 3.0
"""what a published file contains for an answer without a score, and what the authors score instead"""
_SMALLEST = 5e-324


@dataclass(frozen=True)
class Concept:
    name: str
    """in the words of a question"""
    key: str
    """in the answers"""
    file: str
    """in names of files of predictions"""


CONCEPTS = (
    Concept("main action", "MainAction", "Main_Action"),
    Concept("main subjects", "MainSubjects", "Main_Subjects"),
    Concept("main objects", "MainObjects", "Main_Objects"),
    Concept("location", "Location", "Location"),
    Concept("order of actions", "OrderofActions", "Order_Of_Actions"),
)


@dataclass(frozen=True)
class Answer:
    """What one person says of one pair."""

    pair: Pair
    person: str
    scores: tuple[int, ...]
    """1 to 5, in the order of CONCEPTS"""


@dataclass(frozen=True)
class Predicted:
    """Published predictions of the rows that they contain."""

    rows: list[Rating]
    predictions: list[list[float]]
    notes: tuple[str, ...]
    """missing pairs, replaced zeros"""


def read_answers(folder: Path) -> list[Answer]:
    """Return the answers in the order of the file. StepDiffError: the file is missing or damaged."""
    found = []
    for place, entry in read_entries(_file(folder, ANSWERS), SOURCE, "answer"):
        try:
            found.append(_answer(entry))
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}; get the file again from {SOURCE}") from error
    return found


def _answer(entry: Mapping[str, Any]) -> Answer:
    given = value_of(dict(entry), "user_inputs")
    if not isinstance(given, dict):
        raise StepDiffError(f"'user_inputs' is {given!r:.60}, not an object")
    scores = []
    for concept in CONCEPTS:
        if (score := value_of(given, concept.key)) not in SCORES:
            raise StepDiffError(f"{concept.key!r} is {score!r:.60}, not a text from '1' to '5'")
        scores.append(int(score))
    return Answer(split_pair(text_of(dict(entry), "video_pair_id")), text_of(dict(entry), "user_id"), tuple(scores))


def split_pair(text: str) -> Pair:
    """Return the clips of an id of a pair, "A.mp4-B.mp4". StepDiffError: another form."""
    one, dash, two = text.partition("-")
    if not dash or not one or not two:
        raise StepDiffError(f"{text!r} is not an id of a pair, <clip>.mp4-<clip>.mp4")
    return clip_of(one), clip_of(two)


def clip_of(path: str) -> str:
    """Return the id of the clip in a file. StepDiffError: an id with seconds of a video, or none."""
    clip = PurePosixPath(path).stem
    if not clip or parts_of(clip) is not None:
        raise StepDiffError(f"{path!r}: {clip!r} is not a clip of ConViS-Bench, <video>_<number>")
    return clip


def video_of(clip: str) -> str:
    """Return the video that a clip is a part of."""
    return clip.rpartition("_")[0] or clip


def read_rankings(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the clips to rank for each clip. StepDiffError: the file is missing or damaged."""
    path = _file(folder, RANKINGS)
    found = read_json(path, SOURCE)
    try:
        return {clip_of(clip): tuple(map(clip_of, others)) for clip, others in found.items() if _texts(others)}
    except (AttributeError, TypeError):
        raise StepDiffError(f"{path}: not an object {{clip: [clip, ...]}}; get it again from {SOURCE}") from None
    except StepDiffError as error:
        raise StepDiffError(f"{path}: {error}; get it again from {SOURCE}") from error


def _texts(given: Any) -> bool:
    if not isinstance(given, list) or not given or not all(isinstance(item, str) for item in given):
        raise TypeError
    return True


def clips(folder: Path) -> Iterator[ClipFile]:
    """Yield the clips of the pairs, each once. StepDiffError: the list of the videos' files is missing or damaged."""
    path = folder / "ConVIS.jsonl"
    if not path.is_file():
        raise StepDiffError(f"{path}: no such file; get it with the videos from {VIDEOS}")
    seen = set()
    for place, entry in read_objects(path):
        for name in ("video1", "video2"):
            try:
                video = text_of(entry, name)
                clip = clip_of(video)
            except StepDiffError as error:
                raise StepDiffError(f"{place}: {error}; get the file again from {VIDEOS}") from error
            if clip not in seen:
                seen.add(clip)
                yield ClipFile(clip, video, metadata={"domain": PurePosixPath(video).parent.name})


def read_published_predictions(path: str | Path, rows: Sequence[Rating]) -> Predicted:
    """Return predictions in the authors' format, for the rows that they contain.

    Args:
        path: A file, a folder of files, or a pattern of them with `*`, all of one method. A file whose name has a
            concept (Main_Action, ...) is about that concept; any other one is about all concepts.
        rows: Rows of the benchmark.

    Raises:
        StepDiffError: No file, a damaged one, two files about one concept, or no pair of the rows.
    """
    named: dict[str, Path] = {}
    for file in _files(path):
        for concept in [c for c in CONCEPTS if c.file in file.name] or CONCEPTS:
            if (other := named.setdefault(concept.name, file)) != file:
                raise StepDiffError(f"{other} and {file} are both about {concept.name}; name the files of one method")
    scores = {name: _read_scores(file) for name, file in named.items()}
    found = [row for row in rows if row.clips in scores.get(row.concept, {})]
    if not found:
        raise StepDiffError(f"{path}: has none of the {len(rows)} rows; is it a file of ConViS-Bench?")
    values = [scores[row.concept][row.clips] for row in found]
    missing = Counter(row.concept for row in rows) - Counter(row.concept for row in found)
    notes = [f"{name}: {count} pairs without a prediction are not scored" for name, count in missing.items()]
    if zeros := values.count(UNPARSED):
        notes.append(f"{zeros} predictions of 0.0, which mean that no score was found, count as {NEUTRAL}")
    return Predicted(found, [[NEUTRAL if value == UNPARSED else value] for value in values], tuple(notes))


def _files(path: str | Path) -> list[Path]:
    if Path(path).is_dir():
        found = sorted(Path(path).rglob("*.json"))
    else:
        found = [Path(name) for name in sorted(glob(str(path)))]
    if not found:
        raise StepDiffError(f"{path}: no such file of predictions; give a file, a folder or a pattern with *")
    return found


def _read_scores(path: Path) -> dict[Pair, float]:
    """Return the scores of pairs; of several entries about a pair the last one counts, as in the authors' scorer."""
    found = {}
    for place, entry in read_entries(path, "the method that wrote it", "prediction"):
        try:
            value = value_of(entry, "similarity")
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
                raise StepDiffError(f"'similarity' is {value!r:.60}, not a finite number")
            found[clip_of(text_of(entry, "video1")), clip_of(text_of(entry, "video2"))] = float(value)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from error
    return found


def export(_: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction | None], folder: Path) -> list[Path]:
    """Write one file for each concept, where the authors' scorer looks for a model with the folder's name.

    A score of 0 is written as the smallest number above it, because that scorer takes 0.0 for a missing score.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        if prediction is None:
            continue
        ((score,),) = scores_of([row], [prediction])
        one, two = (f"videos_trimmed/{clip}.mp4" for clip in row.clips)
        entry = {"video1": one, "video2": two, "similarity": score or _SMALLEST}
        found.setdefault(_concept_of(row), []).append(entry)
    name = folder.absolute().name
    files = []
    for concept in CONCEPTS:
        if concept.name in found:
            place = folder / "computed_conditioned_similarities" / concept.file / name
            make_folder(place)
            files.append(place / f"{name}_{concept.file}_similarities.json")
            write_text(files[-1], json.dumps(found[concept.name], indent=4, allow_nan=False))
    return files


def _concept_of(row: BenchmarkRow) -> str:
    if not isinstance(row, Rating):
        raise StepDiffError(f"a {type(row).__name__} is not a row of ConViS-Bench")
    return row.concept


def _file(folder: Path, names: Iterable[str]) -> Path:
    """Return the first of the files that exists. StepDiffError: none of them does."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise StepDiffError(f"{folder}: has no {' or '.join(names)}; get it from {SOURCE}")
