"""The training data of a head, recorded in its run's folder, and the head loaded again for the same
features.

    RUN/lineage.json    the views' provenance, the language model's weights, the run that it started
                        from, what trained
    RUN/words           copy of the head of words whose evidence it uses
    RUN/familiarity.safetensors    the clips that trained it, without such a head
                                   (heads.evidence.familiarity)

Guarantees
- a head reads only features of the provenance, and the language model, that it was trained on
- a run whose data have changed, or that would draw clips that it did not know at its start, is not
  resumed
- a run starts only from a finished one, reads its weights as that one did, and includes its clips
  and disclosure
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from heads.data.clips import Features
from heads.data.hold_out import HoldOut, test_digest
from heads.data.training_clips import TrainedOn
from heads.evidence import head as words
from heads.evidence.fitting import Guard
from heads.evidence.head import WordHead
from heads.methods.stepdiff import AS_TRAINED, Answering, StepDiff
from heads.methods.word_evidence import WordEvidence
from heads.models.video_lm import VideoLM
from heads.training import contrastive_task, video_task
from heads.training.checkpoint import Run
from heads.training.contrastive_task import ContrastiveHead
from heads.training.recipe import (
    ContrastiveRecipe,
    Scaling,
    TrainOptions,
    VideoLMRecipe,
    read_recipe,
)
from heads.workers.group import ALONE, Group
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.progress import say
from stepdiff_core.tasks.prompts import MAIN_ACTION, SIMILAR_QUESTION
from stepdiff_core.weights import fingerprint, resolve, resolve_of_data
from store import Provenance, Store
from store.lineage import trained_on as hashes
from store.lineage.answers import RECORD, read_of, read_record, write_record


def load_video_lm(
    folder: Path,
    store: Store,
    device: str = "cpu",
    group: Group = ALONE,
    kept: dict[Any, VideoLM] | None = None,
) -> tuple[VideoLM, Features, VideoLMRecipe]:
    """Load the best checkpoint of a run: the model, the features that it reads, and its recipe.

    group: processes among which the language model is divided, as `division` says. kept: holds the
    model that was loaded last, which is not loaded again. StepDiffError: no such head, damage, a
    language model that cannot be divided, or a store with features of another provenance.
    """
    options = _recipe(folder)
    recipe = options.video_lm
    if recipe is None:
        raise StepDiffError(
            f"{folder}: holds a contrastive head, which answers no questions; name another run"
        )
    features = video_task.clips_of(recipe, store)
    check(folder, options, store)
    kept = {} if kept is None or group.size > 1 else kept
    best = Run(folder).best()
    loads = best.absolute(), (folder / "best.json").stat().st_mtime_ns, device
    if loads not in kept:
        kept.clear()  # before the next one takes memory
        model = video_task.build(
            recipe, features, options.seed, device, division(folder, group.size), group
        )
        _load(folder, model, recipe.schedule.steps, group)
        kept[loads] = model.eval()
    return kept[loads], features, recipe


def load_stepdiff(
    folder: Path,
    store: Store,
    device: str = "cpu",
    group: Group = ALONE,
    how: Answering = AS_TRAINED,
    kept: dict[Any, VideoLM] | None = None,
) -> tuple[StepDiff, VideoLMRecipe]:
    """Load the best checkpoint of a run as a method, and its recipe; arguments and errors are those
    of `load_video_lm` and `words_of`."""
    model, features, recipe = load_video_lm(folder, store, device, group, kept)
    words = words_of(folder, recipe, store)
    guard = Guard.of_run(folder, store, recipe.view) if words is None else None
    return StepDiff(model, features, how, group, words, recipe.evidence, guard), recipe


def words_of(folder: Path, recipe: VideoLMRecipe, store: Store) -> WordEvidence | None:
    """Return the evidence of words that a recipe uses, None if it uses none.

    A run that has begun reads its copy, so the folder that the recipe names may change or go.

    StepDiffError: no such head of words, one of another view, or another one than the run began
    with.
    """
    if recipe.evidence is None:
        return None
    source, copy = Path(recipe.evidence.head), folder / words.COPY
    if Run(folder).latest() is not None:
        path, began = copy / words.FILE, read(folder).get("data", {}).get(str(source / words.FILE))
        if not path.is_file() or fingerprint(path) != began:
            raise StepDiffError(
                f"{copy}: not the head of words that the run began with; restore it from a copy, "
                "or train into a new folder"
            )
        source = copy
    head = WordHead.load(source)
    if head.view != recipe.view:
        raise StepDiffError(
            f"{source}: reads view {head.view}, and the recipe's is {recipe.view}; set "
            "video_lm.evidence.head to a head of words on the same view"
        )
    return WordEvidence.of_store(head, store)


def division(folder: Path, processes: int) -> Scaling:
    """Return how processes divide the language model of a head: layer by layer. StepDiffError: it
    cannot be divided."""
    options = _recipe(folder)
    recipe = options.video_lm
    if processes == 1 or recipe is None:
        return Scaling()
    if recipe.public:
        raise StepDiffError(
            f"{folder}: a video_lm.public model is not divided; evaluate it without torchrun"
        )
    return Scaling(workers=processes, fsdp=True, timeout=options.scaling.timeout)


def load_contrastive(
    folder: Path, store: Store, device: str = "cpu"
) -> tuple[ContrastiveHead, ContrastiveRecipe]:
    """Load the best checkpoint of a contrastive head, and its recipe; raises as `load_video_lm`."""
    options = _recipe(folder)
    recipe = options.contrastive
    if recipe is None:
        raise StepDiffError(
            f"{folder}: holds no contrastive head; train heads/recipes/kitchen/align.yaml"
        )
    check(folder, options, store)
    head = contrastive_task.build(recipe, store, options.seed).to(device)
    _load(folder, head, recipe.schedule.steps)
    return head.eval(), recipe


def _recipe(folder: Path) -> TrainOptions:
    """Read the recipe of a run, which may be a stranger's. StepDiffError: also for a language model
    not used here."""
    Run(folder).check_made_by()
    options = read_recipe(folder / "recipe.yaml")
    if options.video_lm is not None:
        try:
            resolve_of_data(options.video_lm.language_model)
        except StepDiffError as error:
            raise StepDiffError(f"{folder}: language model: {error}") from None
    return options


def _load(folder: Path, module: nn.Module, steps: int, group: Group = ALONE) -> None:
    """Read the best checkpoint of a run of that many steps."""
    run = Run(folder)
    best, reached = run.best(), run.reached()
    if reached < steps and group.first:
        say(f"{folder}: trained {reached} of {steps} steps so far; {best.name} is the best of them")
    run.load(best, module, group=group)


def reads(options: TrainOptions, store: Store) -> dict[str, Any]:
    """Return the inputs of a recipe's head: each view's provenance, and the language model's
    fingerprint."""
    record: dict[str, Any] = {
        e: store.view(e, name).provenance.as_dict() for e, name in views(options).items()
    }
    if options.video_lm is not None:
        record["language_model"] = fingerprint(resolve(options.video_lm.language_model))
    return record


def views(options: TrainOptions) -> dict[str, str]:
    """Return the view that the head of a recipe reads of each entity."""
    if options.video_lm is not None:
        return {"clips": options.video_lm.view}
    assert options.contrastive is not None
    return {"clips": options.contrastive.view, "texts": options.contrastive.text_view}


def check(folder: Path, options: TrainOptions, store: Store) -> None:
    """Raise StepDiffError if the run was trained on other features or models than `options` would
    read."""
    trained, now = read(folder)["reads"], reads(options, store)
    if trained.keys() != now.keys():
        raise StepDiffError(
            f"{folder}: holds another kind of head ({', '.join(trained)}, not {', '.join(now)})"
        )
    for entity, view in views(options).items():
        differs = Provenance.from_dict(trained[entity]).difference(
            Provenance.from_dict(now[entity])
        )
        if differs:
            raise StepDiffError(
                f"{folder}: trained on other features of {entity} than view {view} of {store.path} "
                f"has ({differs}); name the store it was trained on, or train again"
            )
    if trained.get("language_model") != now.get("language_model"):
        assert options.video_lm is not None
        raise StepDiffError(
            f"{folder}: trained with another language model than {options.video_lm.language_model} "
            f"now is (sha256 {trained['language_model'][:12]}, not {now['language_model'][:12]}); "
            "name the same one, or train again"
        )


def _start(
    folder: Path, options: TrainOptions, recipe: VideoLMRecipe, store: Store, module: nn.Module
) -> dict[str, Any]:
    """Return the record of the run that `module` starts from. StepDiffError: it cannot start from
    that."""
    before = read_recipe(folder / "recipe.yaml").video_lm
    if before is None:
        raise StepDiffError(
            f"{folder}: holds a contrastive head, from which no language model can start"
        )
    check(folder, options, store)
    reached = Run(folder).reached()
    if reached < before.schedule.steps:
        raise StepDiffError(
            f"{folder}: trained only {reached} of its {before.schedule.steps} steps; finish it "
            f"first: python -m heads.train --config RECIPE.yaml --out {folder}"
        )
    # in this process, as a check: every process reads it again where the training begins
    Run(folder).start(module)
    compared = [("projector.heads", recipe.projector.heads, before.projector.heads)]
    if recipe.lora is not None and before.lora is not None:
        compared.append(("lora.alpha", recipe.lora.alpha, before.lora.alpha))
    for name, ours, theirs in compared:
        if ours != theirs:  # weights of the same shapes, used in another way
            raise StepDiffError(
                f"{folder}: trained with {name} {theirs}, the recipe's {ours}, with which the same "
                f"weights mean something else; set video_lm.{name} to {theirs}"
            )
    return {"run": str(folder)} | disclosure(before, folder)


def keep(
    folder: Path,
    options: TrainOptions,
    store: Store,
    module: nn.Module,
    trained: TrainedOn,
    hold_out: HoldOut,
) -> None:
    """Write the lineage of a new run that trains `module`, or check the lineage of a run to be
    resumed.

    trained: the clips that may train it, without clips of the run that it starts from; hold_out:
    the clips that are held out.

    StepDiffError: its data have changed, or it cannot start from the run at `init`.
    """
    if Run(folder).latest() is not None:
        check(folder, options, store)
        _check_resumed(folder, options, trained)
        return
    recipe = options.video_lm
    start: dict[str, Any] | None = None
    if recipe is not None and recipe.init is not None:
        start = _start(Path(recipe.init), options, recipe, store, module)
        _check_validating(Path(recipe.init), recipe, store, hold_out)
        trained = trained.including(Path(recipe.init), read(Path(recipe.init)))
    lineage: dict[str, Any] = {
        "reads": reads(options, store),
        "store": read_of(store, views(options)),
        "init": start,
    }
    lineage |= {"data": data(options), "hold_out": hold_out.record()}
    if recipe is not None:
        lineage["regime"] = regime(recipe, start)
    folder.mkdir(parents=True, exist_ok=True)
    if recipe is not None and recipe.evidence is not None:
        source = Path(recipe.evidence.head)
        trained = trained.including(source, read(source))
        replace(WordHead.load(source), folder=folder / words.COPY).save()
        lineage["data"][str(source / words.FILE)] = fingerprint(folder / words.COPY / words.FILE)
    lineage["trained_on"] = trained.write(folder)
    write_record(folder, lineage)


def _check_validating(start: Path, recipe: VideoLMRecipe, store: Store, hold_out: HoldOut) -> None:
    """Raise StepDiffError if the run at `start` was trained on a clip or video that is now held out
    for validation."""
    if (
        recipe.validation is None
        or hold_out.validating.is_empty()
        or read(start).get("trained_on") is None
    ):
        return
    catalog = store.catalog("clips")
    held = TrainedOn.of_catalog(catalog, [catalog.rows(hold_out.validating)])
    for kind in ("clips", "videos") if recipe.validation.by == "video" else ("clips",):
        if common := int(hashes.contained(held.arrays[kind], hashes.blocks(start, kind)).sum()):
            raise StepDiffError(
                f"{start}: trained on {common} {kind} that video_lm.validation.share holds out; "
                "start from a run of the same seed and share, or set video_lm.validation to null "
                "or to files"
            )


def data(options: TrainOptions) -> dict[str, str]:
    """Return a sha256 of each file or test set that training reads in addition to the store."""
    digests = {source: test_digest(source) for source in options.hold_out}
    recipe = options.contrastive.pairs if options.contrastive is not None else options.video_lm
    if recipe is not None:
        validation = recipe.validation
        files = [
            recipe.pairqa,
            *((validation.diffmcq, validation.diffrank) if validation is not None else ()),
        ]
        digests |= {file: fingerprint(file) for file in files if file is not None}
    return digests


def _check_resumed(folder: Path, options: TrainOptions, trained: TrainedOn) -> None:
    """Raise StepDiffError if a file that a run trains on has changed, or an unfinished run would
    draw new clips."""
    record = read(folder)
    for file, sha256 in data(options).items():
        if record.get("data", {}).get(file, sha256) != sha256:
            raise StepDiffError(
                f"{folder}: its training began with another {file}, so it cannot be resumed; "
                "restore that file, or train into a new folder"
            )
    if record.get("trained_on") is None or Run(folder).reached() >= options.schedule.steps:
        return
    hashes.check(folder, record["trained_on"])
    if new := int(
        (~hashes.contained(trained.arrays["clips"], hashes.blocks(folder, "clips"))).sum()
    ):
        raise StepDiffError(
            f"{folder}: the store has {new} more training clips than when its training began, so "
            "it cannot be resumed; train into a new folder, or restore the store"
        )


def read(folder: Path) -> dict[str, Any]:
    """Read the lineage of a run. StepDiffError: it is missing or damaged."""
    record = read_record(folder)
    if missing := {"reads", "init"} - record.keys():
        raise StepDiffError(
            f"{folder / RECORD}: missing or damaged (no {min(missing)}); train again"
        )
    return record


def disclosure(recipe: VideoLMRecipe, folder: Path) -> dict[str, Any]:
    """Return how the training differs from the published recipe, to be shown next to every score.

    trained: the steps so far; checkpoint: the one of them that validation chose; optimiser_steps:
    including earlier runs; regime: see `regime`. None: the run, or an earlier one, does not state
    it.
    """
    run, lineage = Run(folder), read(folder)
    init = lineage["init"]
    before = 0 if init is None else init.get("optimiser_steps")
    return {
        "system": recipe.system,
        "sources": list(recipe.sources),
        "lora": recipe.lora is not None,
        "full": recipe.full,
        "packed": recipe.packed,
        "hard_negatives": recipe.hard_negatives is not None,
        "language_model": recipe.language_model,
        "steps": recipe.schedule.steps,
        "trained": run.reached(),
        "checkpoint": run.best().name,
        "optimiser_steps": None if before is None else before + run.reached(),
        "regime": lineage.get("regime"),
        **({} if recipe.evidence is None else {"evidence": asdict(recipe.evidence)}),
        "init": init,
    }


def regime(recipe: VideoLMRecipe, init: dict[str, Any] | None) -> str | None:
    """Return "supervised" if this or an earlier training asks DiffRank's question about a category,
    else "s1".

    Supplement S1 asks it only about the main action. None: unknown, because an earlier run does not
    state it.
    """
    before = "s1" if init is None else init.get("regime")
    if "pairs" not in recipe.sources or recipe.pairqa is None or before == "supervised":
        return before
    start, end = SIMILAR_QUESTION.split("{category}")
    questions = (str(row.get("question")) for _, row in read_objects(recipe.pairqa))
    categories = {
        q.removeprefix(start).removesuffix(end)
        for q in questions
        if q.startswith(start) and q.endswith(end)
    }
    return "supervised" if categories - {MAIN_ACTION} else before
