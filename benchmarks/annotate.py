"""Every stage of annotate: clips or pairs a second, and the share of the time in which its model worked.

python -m benchmarks.annotate --head runs/vclm --space-head runs/align    # after `make demo`, about 5 minutes
python -m benchmarks.annotate --clips 8 --pairs 2                         # language model alone, a first look
python -m benchmarks.annotate --endpoint http://127.0.0.1:8000/v1 --llm meta-llama/Llama-2-70b-chat-hf --batch 64

A stage is what one worker does with its shard: read, ask the model, write, fsync. Models are loaded before. Answers go
to a temporary folder; each stage reads those of the stage before it.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness.report import Row, benchmark, line
from heads.llm.model import LLMOptions
from stepdiff.common.cli import command
from stepdiff.common.cli.options import incomplete
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    import polars as pl

    from stepdiff.annotate.qa.prompts import CaptionKind
    from stepdiff.annotate.stages.job import Job
    from stepdiff.annotate.stages.versions import Version

BUSY = 0.95
"""share of the time in which a local model should work"""


@dataclass(frozen=True, kw_only=True)
class Options(LLMOptions):
    store: str = "data/features"
    """feature store"""
    head: str | None = None
    """run folder of a video language model that captions; without one, the narration is used as captions"""
    centre: str | None = None
    """view of centre frames, for its object captions; null: the head's own view"""
    space: str = "aligned"
    """view in whose space objects are grounded"""
    space_head: str | None = None
    """run folder of the contrastive head that made it; without one, nothing is grounded"""
    clips: int = 32
    """clips of each stage"""
    pairs: int = 8
    """pairs, each asked three prompts"""
    device: str = "auto"
    """auto, cpu, cuda"""


class Bench:
    """Runs one stage after another, and keeps their figures."""

    def __init__(self, folder: str, device: str) -> None:
        """folder: for the answers."""
        from store import Store

        self.store = Store.open(folder, create=True)
        self.device = device
        self.rows: list[Row] = []

    def stage(self, name: str, job: "Job", items: "pl.DataFrame", what: str, count: int) -> "Version":
        """Run a stage on all items and note `count` of `what` a second."""
        import torch

        from stepdiff.annotate.stages.stage import StageWorkerOptions, Worker, pending
        from stepdiff.annotate.stages.versions import Version

        version = Version(self.store, name, job.provenance())
        version.create()
        threads = torch.get_num_threads()
        worker = Worker(StageWorkerOptions(str(self.store.path), name, version.name, job, self.device, threads))
        outcomes = [worker.run(task) for task in pending(version, items, False)]
        if errors := [one.error for one in outcomes if one.error]:
            raise StepDiffError(errors[0])
        seconds, busy = sum(one.seconds for one in outcomes), sum(one.busy for one in outcomes)
        failed = items.height - sum(one.done for one in outcomes)
        self.rows.append(
            {
                "stage": name,
                "of": what,
                "a second": round(count / seconds, 3),
                "seconds": round(seconds, 2),
                "busy": round(busy / seconds, 4),
                "failed": failed,
            }
        )
        print(f"{name}: {count} {what} in {seconds:.1f} s", file=sys.stderr)
        return version


def run(options: Options) -> dict[str, Any]:
    """Return the figures of every stage, and what they were measured with."""
    import polars as pl

    from heads.models.language_model import pick_device
    from stepdiff.annotate.stages.stage import clip_blocks
    from store import Store

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, pick_device(options.device))
        clips = pl.concat(clip_blocks(Store.open(options.store), None, ["narration"]))
        described = describe(bench, options, clips)
        ask(bench, options, described)
    lines = [line(f"{row['stage']}, busy", row["busy"], 1.0, BUSY, "the time") for row in bench.rows]
    facts = {"llm": options.llm, "device": bench.device, "batch": options.batch, "sampling": asdict(options.sampling)}
    return {"rows": bench.rows, "lines": [] if options.endpoint else lines, **facts}


def describe(bench: Bench, options: Options, clips: "pl.DataFrame") -> dict[str, str]:
    """Caption, ground and describe the clips; return clip -> its description."""
    import polars as pl

    from stepdiff.annotate.describe import KIND, DescribeJob
    from stepdiff.annotate.grounding import GROUNDED, RowSet, SpaceJob
    from stepdiff.annotate.qa.prompts import DESCRIBE

    items = clips.filter(pl.col("narration").str.len_chars() > 0).head(options.clips)
    actions = objects = dict(zip(items["key"], items["narration"], strict=True))
    if options.head is not None:
        actions = caption(bench, options, "action", None, items)
        objects = caption(bench, options, "objects", options.centre, items)
    if options.space_head is not None:
        listed = items.with_columns(objects=_column(items, objects))
        others = RowSet.of([items["row"].to_numpy()])
        space = SpaceJob(options.store, options.space, options.space_head, None, others, "", {})
        objects = bench.stage("ground", space, listed, "clips", listed.height).texts(GROUNDED)
    items = items.with_columns(action_caption=_column(items, actions), object_caption=_column(items, objects))
    job = DescribeJob(LLMOptions.of(options), DESCRIBE, 200, {})
    return bench.stage("describe", job, items, "clips", items.height).texts(KIND)


def caption(
    bench: Bench, options: Options, kind: "CaptionKind", view: str | None, items: "pl.DataFrame"
) -> dict[str, str]:
    """Return captions of one kind by the head."""
    from stepdiff.annotate.captioning import TokenJob
    from stepdiff.annotate.qa.prompts import QUESTIONS

    job = TokenJob(options.store, kind, options.head, None, view, QUESTIONS[kind], 48, 16)
    return bench.stage(f"captions-{kind}", job, items, "clips", items.height).texts(kind)


def ask(bench: Bench, options: Options, described: dict[str, str]) -> None:
    """Ask about pairs of neighbouring clips."""
    import polars as pl

    from stepdiff.annotate.qa.questions import PairQAJob
    from stepdiff.annotate.qa.questions import items as pair_items

    keys = list(described)[: options.pairs + 1]
    pairs = pl.DataFrame({"reference": keys[:-1], "candidate": keys[1:]}).with_columns(
        pair=pl.int_range(len(keys) - 1), same_step=pl.lit(True)
    )
    job = PairQAJob(LLMOptions.of(options), "of the benchmark", (), "of the benchmark")
    bench.stage("pairqa", job, pair_items(pairs, described), "pairs", pairs.height)


def _column(items: "pl.DataFrame", texts: dict[str, str]) -> "pl.Series":
    import polars as pl

    return pl.Series([texts.get(key) for key in items["key"]], dtype=pl.String)


main = benchmark("annotate", Options, __doc__, run, status=incomplete)

if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
