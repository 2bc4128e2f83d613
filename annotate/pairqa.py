"""python -m annotate.pairqa --store data/features --pairs data/pairs.parquet --out data/pairqa.jsonl

Asks a language model about pairs of clips by their step descriptions, with the supplement's three prompts (S1), and
writes the questions and answers that a video language model trains on (--video-lm.pairqa of python -m heads.train):
one JSON object a line, both orders of every pair. Beside it, OUT.record.json says what was dropped and why.

    --llm meta-llama/Llama-2-70b-chat-hf --endpoint http://127.0.0.1:8000/v1    asks a server

Guarantees
- the file is written once every pair has been asked, and what was written is not asked again
- no pair with a clip that is held out is asked about or written
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from annotate.llm.endpoint import shown
from annotate.llm.options import LLMOptions, Sampling
from annotate.pairs import SCHEMA
from annotate.qa.composing import Ledger, compose, kept_words
from annotate.qa.job import CUT, KINDS, STAGE, PairQAJob, items
from annotate.qa.prompts import PAIRQA
from annotate.sources.held_out import given
from annotate.stages.stage import StageOptions, run_stage
from annotate.stages.stage import show as show_stage
from annotate.stages.versions import Version, chosen
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.io.files import write_pieces, write_text
from common.io.jsonl import object_line
from common.progress import say
from heads.data.clip_texts import ClipTexts
from heads.data.hold_out import known_clips
from heads.methods.similarity import Sentences
from heads.models.language_model import pick_device
from store import Store
from weights import fingerprint


@dataclass(frozen=True, kw_only=True)
class PairQAOptions(LLMOptions, StageOptions):
    pairs: str
    """Parquet file of python -m annotate.pairs"""
    out: str
    """JSON lines to write"""
    texts: str | None = None
    """Parquet file or folder of step descriptions; null: what python -m annotate.describe left in the store"""
    kind: str | None = None
    """which of its texts, by their column kind; null where all are of one kind"""
    alike: float = 0.9
    """cosine of MPNet embeddings from which on two questions of a pair count as one"""
    sampling: Sampling = Sampling(max_tokens=256)
    """how answers are drawn"""
    hold_out: tuple[str, ...] = ()
    """published test sets: pairs with one of their clips are left out"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in time"""


def run(options: PairQAOptions) -> dict[str, Any]:
    if Path(options.out).suffix != ".jsonl":
        raise StepDiffError(f"{options.out}: questions are JSON lines; name the file *.jsonl")
    if not 0 < options.alike <= 1.01:
        raise StepDiffError(f"--alike {options.alike}: a cosine above 0; over 1 nothing is alike")
    hold_out = given(options.hold_out, options.hold_out_by)
    store, pairs = Store.open(options.store), read_pairs(options.pairs)
    if hold_out.files:
        hold_out.look_up(known_clips(store))
        pairs = pairs.filter(pl.Series(hold_out.keep_pairs(pairs.select("reference", "candidate").rows(), "pairs")))
        for line in hold_out.lines():
            say(line)
    texts = ClipTexts(options.texts or str(chosen(store, "describe", None).folder), options.kind)
    described, undescribed = with_texts(pairs, texts)
    asked = items(described, dict(texts.items()))
    read = asked.select(PAIRQA[1].fields).write_ndjson().encode()
    job = PairQAJob(
        LLMOptions.of(options),
        fingerprint(Path(options.pairs)),
        tuple(texts.provenance),
        hashlib.sha256(read).hexdigest(),
    )
    stage = run_stage(options, STAGE, job, asked)
    record = {**stage, "out": options.out, "pairs": pairs.height, "undescribed": undescribed}
    record["hold_out"] = hold_out.record()
    if stage["absent"]:
        return record
    version = Version(store, STAGE, job.provenance())
    ledger = Ledger()
    embed = Sentences(device=pick_device(options.device))
    written = {key: text for kind in KINDS for key, text in version.texts(f"type {kind}").items()}
    cut = {key for kind in KINDS for key in version.texts(f"type {kind}{CUT}")}
    rows = compose(described.iter_rows(named=True), written, cut, embed, options.alike, ledger)
    out = Path(options.out)
    write_pieces(out, (object_line({**row, "provenance": version.name}).encode() for row in rows))
    record |= {"rows": ledger.rows, **ledger.record()}
    endpoint = None if options.endpoint is None else shown(options.endpoint)
    about = {"options": asdict(options) | {"endpoint": endpoint}, "provenance": job.provenance(), **record}
    write_text(out.with_suffix(".record.json"), json.dumps(about, indent=1))
    return record


def read_pairs(path: str) -> pl.DataFrame:
    """The rows of a file of annotate.pairs. StepDiffError: not such a file."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{path}: no pairs can be read ({why}); run python -m annotate.pairs") from None
    if dict(frame.schema) != SCHEMA:
        raise StepDiffError(
            f"{path}: not a file of python -m annotate.pairs; its columns are {', '.join(frame.columns)}"
        )
    return frame


def with_texts(pairs: pl.DataFrame, texts: ClipTexts) -> tuple[pl.DataFrame, int]:
    """The pairs of different steps, and those of one step whose clips are both described; how many are not."""
    keys = pl.Series([key for key, _ in texts.items()], dtype=pl.String).implode()
    described = pl.col("reference").is_in(keys) & pl.col("candidate").is_in(keys)
    found = pairs.filter(described | ~pl.col("same_step"))
    return found, pairs.height - found.height


def show(record: dict[str, Any]) -> None:
    show_stage(record)
    if "rows" not in record:
        return
    print(
        "{out}: {rows:,} questions of {pairs:,} pairs, both orders; {undescribed:,} pairs lack a description".format(
            **record
        )
    )
    for kind, told in record["types"].items():
        print(f"type {kind}: {kept_words(kind, told)}")
        for reason, count in told["dropped"].items():
            print(f"  dropped {count:,} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(PairQAOptions, argv, "annotate.pairqa", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
