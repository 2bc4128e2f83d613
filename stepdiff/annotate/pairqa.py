"""stepdiff annotate pairqa --store data/features --pairs data/pairs.parquet --out data/pairqa.jsonl

Writes questions and answers about pairs of clips: a language model reads their step descriptions
with the supplement's three prompts (S1). A video language model trains on the file
(--video-lm.pairqa of python -m heads.train): one JSON object a line, both orders of every pair.
OUT.record.json, next to it, says what was dropped and why.

    --llm meta-llama/Llama-2-70b-chat-hf --endpoint http://127.0.0.1:8000/v1    a model at a server

Guarantees
- the file is written once the language model has answered for every pair, and no answer is computed
  twice
- no pair with a clip that is held out gets a question
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from heads.llm.model import LLMOptions, Sampling, shown
from stepdiff.annotate.stages.job import HINT, StageOptions
from stepdiff.annotate.stages.job import show as show_stage
from stepdiff_core.cli import command
from stepdiff_core.cli.options import incomplete, parse
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True, kw_only=True)
class PairQAOptions(LLMOptions, StageOptions):
    pairs: str
    """Parquet file of stepdiff annotate pairs"""
    out: str = field(metadata={"written": (".record.json",)})
    """JSON lines to write"""
    texts: str | None = None
    """Parquet file or folder of step descriptions; null: those of stepdiff annotate describe in the
    store"""
    kind: str | None = None
    """which of its texts, by their column kind; null if all are of one kind"""
    alike: float = 0.9
    """cosine of MPNet embeddings from which on two questions of a pair count as one"""
    sampling: Sampling = Sampling(max_tokens=256)
    """how answers are sampled"""
    hold_out: tuple[str, ...] = ()
    """published test sets: pairs with one of their clips are left out"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in
    time"""


def run(options: PairQAOptions) -> dict[str, Any]:
    if Path(options.out).suffix != ".jsonl":
        raise StepDiffError(f"{options.out}: questions are JSON lines; name the file *.jsonl")
    if not 0 < options.alike <= 1.01:
        raise StepDiffError(
            f"--alike {options.alike}: a cosine above 0; above 1 nothing counts as similar"
        )
    import polars as pl

    from heads.data.clip_texts import ClipTexts
    from heads.data.hold_out import HoldOut
    from heads.methods.similarity import Sentences
    from heads.models.language_model import pick_device
    from stepdiff.annotate.qa import questions
    from stepdiff.annotate.qa.prompts import PAIRQA
    from stepdiff.annotate.stages.stage import Items, Version, chosen, run_stage
    from stepdiff_core.io.files import write_pieces, write_text
    from stepdiff_core.io.jsonl import object_line
    from stepdiff_core.progress import say
    from stepdiff_core.weights import fingerprint
    from store import Store

    hold_out = HoldOut(options.hold_out, options.hold_out_by)
    store, pairs = Store.open(options.store), questions.read_pairs_file(options.pairs)
    if hold_out.files:
        hold_out.look_up(store.catalog("clips"))
        pairs = pairs.filter(
            pl.Series(hold_out.keep_pairs(pairs.select("reference", "candidate").rows(), "pairs"))
        )
        for line in hold_out.lines():
            say(line)
    texts = ClipTexts(options.texts or str(chosen(store, "describe", None).folder), options.kind)
    text_of = dict(texts.items())
    both = pl.all_horizontal(
        pl.col("reference", "candidate").is_in(pl.Series(list(text_of), dtype=pl.String).implode())
    )
    described = pairs.filter(both | ~pl.col("same_step"))
    to_answer = questions.items(described, text_of)
    read = to_answer.select(PAIRQA[1].fields).write_ndjson().encode()
    job = questions.PairQAJob(
        LLMOptions.of(options),
        fingerprint(Path(options.pairs)),
        tuple(texts.provenance),
        hashlib.sha256(read).hexdigest(),
    )
    stage = run_stage(options, questions.STAGE, job, Items(lambda: [to_answer.sort("row")]))
    record = {**stage, "out": options.out, "pairs": pairs.height}
    record["undescribed"] = pairs.height - described.height
    record["hold_out"] = hold_out.record()
    if stage["absent"]:
        return record
    version = Version(store, questions.STAGE, job.provenance())
    ledger = questions.Ledger()
    embed = Sentences(device=pick_device(options.device))
    written = {
        key: text for kind in questions.KINDS for key, text in version.texts(f"type {kind}").items()
    }
    cut = {key for kind in questions.KINDS for key in version.texts(f"type {kind}{questions.CUT}")}
    rows = questions.compose(
        described.iter_rows(named=True), written, cut, embed, options.alike, ledger
    )
    out = Path(options.out)
    write_pieces(out, (object_line({**row, "provenance": version.name}).encode() for row in rows))
    record |= {"rows": ledger.rows, **ledger.record()}
    endpoint = None if options.endpoint is None else shown(options.endpoint)
    about = {
        "options": asdict(options) | {"endpoint": endpoint},
        "provenance": job.provenance(),
        **record,
    }
    write_text(out.with_suffix(".record.json"), json.dumps(about, indent=1))
    return record


def show(record: dict[str, Any]) -> None:
    show_stage(record)
    if "rows" not in record:
        return
    from stepdiff.annotate.qa.questions import kept_words

    summary = (
        "{out}: {rows:,} questions of {pairs:,} pairs, both orders; {undescribed:,} pairs lack a "
        "description"
    )
    print(summary.format(**record))
    for kind, counts in record["types"].items():
        print(f"type {kind}: {kept_words(kind, counts)}")
        for reason, count in counts["dropped"].items():
            print(f"  dropped {count:,} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        PairQAOptions, argv, "stepdiff.annotate.pairqa", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main, HINT)
