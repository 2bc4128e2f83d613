"""The options of heads.evaluate, and which method or task reads which of them.

Guarantees
- an option that the method or the task does not read is refused, never ignored
- no file of --data is overwritten
"""

import dataclasses
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from heads.methods.registry import PLUGIN, REGISTRY, Control, PairEmbedding
from stepdiff_core.cli.options import at_least, flag
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place, refuse_url
from stepdiff_core.plugins import installed
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.registry import TaskSpec
from stepdiff_core.workers.cluster import refuse_relative

VIDEO_LM = ("video-lm", "stepdiff")
PUBLIC = ("llava", "idefics", "vlm")
PLUGINS = "stepdiff.methods"
"""entry-point group of other packages' methods"""
OF_TASKS = (
    *(
        "pair_embedding",
        "no_difference",
        "similarity",
        "truth",
        "judge",
        "endpoint",
        "entailment",
        "parse",
        "seeded",
    ),
    *("decline_at", "ask_similar"),
)
"""options that a task reads only if its spec lists them"""
NEXT_TO_OUT = (".rows.jsonl", ".scores.json", ".judged.jsonl", ".partial.jsonl")
"""suffixes of the files written next to OUT"""


@dataclass(frozen=True)
class EvaluateOptions:
    task: str
    """diffcap, diffmcq or diffrank, the published tasks; or a benchmark of others:
    captaincook-mistake, captaincook-retrieval, captaincook-retrieval-flawed, convis,
    convis-retrieval, crossvid-cc, crossvid-pea, viddiff-closed, viddiff-open, vidic; or the name of
    an installed plug-in, or package.module:SPEC (stepdiff_core.tasks.registry.TaskSpec)"""
    method: str
    """video-lm (a trained head: VCLM, Interleaved or StepDiff, by its recipe; stepdiff means the
    same), word-evidence (a head of words), vlemb (embeddings in one space), llava or idefics (a
    public vision-language model), vlm (any video language model of transformers that takes cached
    tokens), socratic (a language model that reads a text about each clip), captions-cosine
    (embeddings of such texts), a control (random, step-oracle, rarest, medoid, shuffled-captions),
    the name of an installed plug-in, or package.module:Class (heads.methods.Method)"""
    out: str = dataclasses.field(metadata={"written": NEXT_TO_OUT})
    """predictions file to write"""
    test_set: str | None = None
    """test set in the published format, for a published task"""
    data: str | None = None
    """folder of the files that the authors of a benchmark publish"""
    store: str | None = None
    """feature store; null: none, for methods that read no features (socratic, captions-cosine,
    random)"""
    head: str | None = None
    """run folder of heads.train, for video-lm; of heads.words, for word-evidence"""
    view: str | None = None
    """view with embeddings, for vlemb; with the tokens of the model's own vision part, for llava,
    idefics and vlm; passed to plug-ins"""
    pair_embedding: PairEmbedding = "average"
    """vlemb on diffmcq: the clips whose embeddings represent a pair"""
    weights: str | None = None
    """folder or hub id of the checkpoint, for llava, idefics (1, 2 or 3) and vlm; for
    captions-cosine that of a sentence-transformers model, or its name, by default minilm-l6"""
    texts: str | None = None
    """for socratic and captions-cosine: Parquet file of texts about clips, or a folder of them as a
    stage of annotate writes it; for medoid: paired QA of training clips; for shuffled-captions:
    predictions of another method, with the rows that it answered next to them"""
    kind: str | None = None
    """for socratic and captions-cosine: which texts to read, by their column kind; null if all are
    of one kind"""
    language_model: str = "smollm2-135m-instruct"
    """for socratic: name, folder or hub id of the language model"""
    precision: Literal["auto", "bfloat16", "float32"] = "float32"
    """for socratic: precision of matrix products; auto: bfloat16 on GPUs and CPUs that are fast at
    it, else float32 (a trained head has that of its recipe)"""
    control: Control = "none"
    """blind: without video tokens (without texts); shuffled: with those of another clip"""
    rows: int | None = None
    """evaluate this many rows, drawn by seed; null: all"""
    subset: str | None = None
    """only rows of these categories, reference videos or reference clips, of a benchmark of these
    keys, concepts or clips: names separated by commas, or a file with one name per line"""
    no_difference: str | None = None
    """DiffRank test set: diffcap also asks about its pairs of score 5, as many as --rows;
    Tools/Equipment is left out, because its score 5 allows another colour"""
    skip_missing: bool = False
    """leave out rows with a clip that the store lacks, and count them"""
    allow_seen: bool = False
    """evaluate although clips of the test set, or of their videos, trained the head; every table
    marks the scores"""
    rows_at_once: int = 50
    """rows (of DiffMCQ: pairs of clips) per batch: larger batches are faster, smaller ones lose
    less when killed"""
    parse: bool = True
    """post-process captions as the supplement's S4 does; --no-parse keeps them raw (Table S1)"""
    seeded: bool = True
    """diffcap: captions continue the supplement's seed, "The main difference in ... is that in
    Video 2,"; --no-seeded lets them start freely, so that a method can say that nothing differs"""
    decline_at: float | None = None
    """diffcap: also ask, as DiffRank does, whether the clips share a similar category, and answer
    "no difference" where log p(YES) - log p(NO) is above this; null: never"""
    ask_similar: bool = False
    """diffcap: also ask that question and write log p(YES) - log p(NO) as "similar" next to each
    caption, so that scores and reports show how captions decline both as written and if those of
    similar clips (above 0) do"""
    similarity: bool = False
    """diffcap: also score MPNet, the sentence similarity to the reference texts; viddiff-open: also
    match differences by it"""
    truth: str | None = None
    """diffcap, on the sample world: also score the details that captions name, checked against the
    exact attributes in this file, its attributes.jsonl (the truth score)"""
    judge: str | None = None
    """language model that judges the texts of vidic or viddiff-open: a name, folder or hub id, or
    with an endpoint the name of the model that is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server of the judge; its key is taken from OPENAI_API_KEY"""
    entailment: str | None = None
    """viddiff-open: folder or hub id of a classifier of text pairs with labels entailment and
    contradiction"""
    bootstrap: int = 1000
    """resamples for the 95 % intervals"""
    seed: int = 0
    """seed of rows, shuffling, the random choices of controls, and resampling"""
    device: str = "auto"
    """auto, cpu, cuda"""
    workers: int = 1
    """processes that answer batches, each with its own model; 1 without an address: this process,
    without Ray"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; null: RAY_ADDRESS, else Ray is started on this
    machine"""

    @property
    def source(self) -> str:
        """The test set, or the folder of a benchmark."""
        return self.test_set or self.data or ""


def check_task(options: Any) -> TaskSpec:
    """Return the spec of the task. options: of heads.evaluate or heads.score. StepDiffError: no
    such task, no or another source of rows than it has, or an option that it does not read."""
    at_least(options, bootstrap=0, seed=0)
    spec = registry.get(options.task)
    name, needed = ("test_set", "test-set FILE") if spec.test_set else ("data", "data FOLDER")
    if getattr(options, name) is None or None not in (options.test_set, options.data):
        raise StepDiffError(f"--task {options.task} needs --{needed}, and no other source of rows")
    for field in fields(options):
        if (
            field.name in OF_TASKS
            and field.name not in spec.options
            and getattr(options, field.name) != field.default
        ):
            readers = ", ".join(registry.readers(field.name))
            raise StepDiffError(
                f"{flag(field.name)} is for {readers}, and {options.task} does not read it; leave "
                "it out"
            )
    return spec


def check(options: EvaluateOptions) -> None:
    """Raise StepDiffError for an unknown method or task, an option that is not read or out of
    range, or a file that is read and would be overwritten."""
    if Path(options.out).suffix != ".jsonl":
        raise StepDiffError(f"{options.out}: predictions are JSON lines; name the file *.jsonl")
    method = REGISTRY.get(options.method, PLUGIN)
    if (
        method is PLUGIN
        and ":" not in options.method
        and options.method not in (plugins := installed(PLUGINS))
    ):
        names = ", ".join([*REGISTRY, *plugins])
        raise StepDiffError(
            f"--method {options.method}: no such method; give {names}, or package.module:Class"
        )
    check_task(options)
    for field in fields(EvaluateOptions):
        readers = [each.name for each in (*REGISTRY.values(), PLUGIN) if field.name in each.options]
        if readers and method.name not in readers and getattr(options, field.name) != field.default:
            raise StepDiffError(
                f"{flag(field.name)} is for {', '.join(readers)}, and {method.name} does not read "
                "it; leave it out"
            )
    if options.store is None and method.store:
        raise StepDiffError(
            f"--method {options.method} needs --store, the feature store that it reads"
        )
    at_least(options, rows=1, rows_at_once=1, workers=1)
    if options.decline_at is not None and not math.isfinite(options.decline_at):
        raise StepDiffError(
            f"--decline-at {options.decline_at} is not finite; 0 declines where YES is likelier "
            "than NO"
        )
    if options.ask_similar and options.decline_at is not None:
        raise StepDiffError(
            "--ask-similar keeps captions as written, and --decline-at replaces some; choose one"
        )
    _check_files(options)


def _check_files(options: EvaluateOptions) -> None:
    """Raise StepDiffError if a file of --data would be overwritten, OUT is a URL, or a Ray job's
    path is relative."""
    refuse_url("--out", options.out)
    is_remote = options.store is not None and place(options.store).remote
    paths = (
        "test_set",
        "data",
        "out",
        "head",
        "texts",
        "no_difference",
        "truth",
        *(() if is_remote else ("store",)),
    )
    refuse_relative(
        [(flag(name), path) for name in paths if (path := getattr(options, name)) is not None]
    )
    out = Path(options.out)
    is_ours = any(out.with_suffix(name).exists() for name in NEXT_TO_OUT)
    if options.data is not None and out.exists() and not is_ours:
        if out.resolve().is_relative_to(Path(options.data).resolve()):
            raise StepDiffError(
                f"--out {options.out} would overwrite a file of --data; name another --out"
            )
