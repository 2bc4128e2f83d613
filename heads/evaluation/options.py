"""What heads.evaluate is asked, as one dataclass, and which method or task reads which option.

Guarantees
- an option that the method or the task does not read is refused, never ignored
- no file that is read is written
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.errors import StepDiffError

VIDEO_LM = ("video-lm", "stepdiff")
PUBLIC = ("llava", "idefics")
METHODS = {
    "head": VIDEO_LM,
    "view": ("vlemb", *PUBLIC),
    "pair_embedding": ("vlemb",),
    "weights": PUBLIC,
    "texts": ("socratic",),
    "kind": ("socratic",),
    "language_model": ("socratic",),
    "precision": ("socratic",),
    "control": (*VIDEO_LM, *PUBLIC, "socratic"),
    "allow_seen": (*VIDEO_LM, "vlemb"),
}
TASKS = {
    "pair_embedding": ("diffmcq",),
    "no_difference": ("diffcap",),
    "similarity": ("diffcap",),
    "parse": ("diffcap",),
    "seeded": ("diffcap",),
    "decline_at": ("diffcap",),
}

WRITTEN = ("rows.jsonl", "scores.json", "partial.jsonl", "partial.json")
"""files beside OUT, by what stands for its suffix"""


@dataclass(frozen=True)
class EvaluateOptions:
    task: Literal["diffcap", "diffmcq", "diffrank"]
    """which test set"""
    method: Literal["video-lm", "stepdiff", "vlemb", "llava", "idefics", "socratic", "step-oracle"]
    """who answers: a trained head (video-lm: VCLM, Interleaved or StepDiff, as its recipe says; stepdiff is the same),
    embeddings in one space, a public model that sees, a language model that reads what was said of each clip, or the
    control that knows only the steps"""
    store: str
    """feature store"""
    test_set: str
    """test set in the published format"""
    out: str
    """predictions file to write"""
    head: str | None = None
    """run folder of heads.train, for video-lm"""
    view: str | None = None
    """view with embeddings, for vlemb; with the tokens of the model's own image tower, for llava and idefics"""
    pair_embedding: Literal["average", "reference", "candidate"] = "average"
    """vlemb on diffmcq: which clips' embeddings stand for a pair"""
    weights: str | None = None
    """folder or hub id of the checkpoint, for llava and idefics (1, 2 or 3)"""
    texts: str | None = None
    """Parquet file of texts about clips, or a folder of them as a stage of annotate leaves it, for socratic"""
    kind: str | None = None
    """which of its texts, by its column kind; null where all are of one kind"""
    language_model: str = "smollm2-135m-instruct"
    """name, folder or hub id of the language model that reads them"""
    precision: Literal["bfloat16", "float32"] = "float32"
    """of its matrix products, for socratic (a trained head computes as it was trained)"""
    control: Literal["none", "blind", "shuffled"] = "none"
    """answers without video tokens (without texts), or with those of another clip"""
    rows: int | None = None
    """evaluate this many rows, drawn by seed; null: all"""
    subset: str | None = None
    """only rows of these categories, reference videos or reference clips: a file of one a line, or parted by commas"""
    no_difference: str | None = None
    """DiffRank test set, whose pairs of score 5 diffcap asks about too, as many as rows says; not in Tools/Equipment,
    whose 5 allows another colour"""
    skip_missing: bool = False
    """leave out rows with a clip that the store lacks, and count them"""
    allow_seen: bool = False
    """evaluate although clips of the test set, or of their videos, trained the head; every table marks the scores"""
    rows_at_once: int = 50
    """rows (of DiffMCQ: pairs of clips) between two writes: more share more work, fewer lose less to a kill"""
    parse: bool = True
    """post-process captions as the supplement's S4 does; --no-parse leaves them as they are (Table S1)"""
    seeded: bool = True
    """diffcap: captions go on from the supplement's seed, "The main difference in ... is that in Video 2,"; --no-seeded
    lets them begin otherwise, so that a method can say that nothing differs"""
    decline_at: float | None = None
    """diffcap: asked as in DiffRank whether two clips share a similar category, a method that finds YES likelier than
    NO by more than this (a log ratio; 0: at all) says that nothing differs in the place of its caption; null: never"""
    similarity: bool = False
    """diffcap: MPNet too, sentence similarity to the texts"""
    bootstrap: int = 1000
    """resamples for the 95 % intervals"""
    seed: int = 0
    """seed of rows, shuffling and resampling"""
    device: str = "auto"
    """auto, cpu, cuda"""


def check(options: EvaluateOptions) -> None:
    """StepDiffError: an option for another method or task, or a number that is too small."""
    defaults = {field.name: field.default for field in fields(EvaluateOptions)}
    for asked, readers in ((options.method, METHODS), (options.task, TASKS)):
        for name, known in readers.items():
            if asked not in known and getattr(options, name) != defaults[name]:
                flag = name.replace("_", "-")
                raise StepDiffError(f"--{flag} is for {', '.join(known)}, and {asked} does not read it; leave it out")
    if options.rows_at_once < 1 or (options.rows is not None and options.rows < 1):
        raise StepDiffError(f"--rows {options.rows}, --rows-at-once {options.rows_at_once}: neither may be below 1")
    if options.decline_at is not None and not math.isfinite(options.decline_at):
        raise StepDiffError(f"--decline-at {options.decline_at} is no number; 0 declines where YES is likelier than NO")
    if options.seed < 0 or options.bootstrap < 0:
        raise StepDiffError(f"--seed {options.seed}, --bootstrap {options.bootstrap}: neither may be below 0")


def check_files(options: EvaluateOptions) -> None:
    """StepDiffError: what is to be written is one of the files that are read."""
    out = Path(options.out)
    taken = {path.resolve() for path in (out, *(out.with_suffix(f".{name}") for name in WRITTEN))}
    for name in ("test_set", "no_difference", "subset", "texts"):
        value = getattr(options, name)
        if value is not None and Path(value).resolve() in taken:
            flag = name.replace("_", "-")
            raise StepDiffError(f"--{flag} {value}: --out {options.out} would write over it; name another --out")
