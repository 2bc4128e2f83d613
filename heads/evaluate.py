"""Evaluate a method on a test set: predictions, and scores with 95 % intervals.

python -m heads.evaluate --task diffmcq --method video-lm --head runs/stepdiff \\
    --store data/features --test-set data/kitchen/diffmcq_test.jsonl --rows 150 \\
        --out data/demo/diffmcq_stepdiff.jsonl

Writes the predictions in the published format (OUT), the scores with all that they depend on (OUT's
name with .scores.json), and, unless the whole test set was answered, its answered rows
(.rows.jsonl).

    --method package.module:Class        your own method (heads.methods.Method), or the name of an
                                         installed plug-in
    --subset Technique,Visuals           only rows of these categories, videos or clips, or those
                                         named in a file
    --no-difference diffrank_test.jsonl  diffcap also asks about pairs that agree, and counts
                                         invented differences
    --truth attributes.jsonl             diffcap on the sample world also checks the details that
                                         captions name
    --allow-seen                         evaluate on clips or videos that trained the head, and mark
                                         the scores
    --ask-similar                        diffcap also asks whether two clips are similar, and writes
                                         the answer
    --decline-at 0                       diffcap answers "no difference" where the method finds two
                                         clips similar
    --workers 4                          four processes, on this machine or with --address on a
                                         cluster

python -m heads.evaluations FILE                     many evaluations in one process, a line each
torchrun --nproc-per-node 8 -m heads.evaluate ...    divides a language model among eight devices

An evaluation that was killed resumes after its last complete batch, and its predictions are the
same, bit for bit.
"""

from typing import Any

from heads.evaluation.options import EvaluateOptions
from heads.evidence import UNLIKE
from heads.workers import first_prints
from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse


def run(options: EvaluateOptions) -> dict[str, Any]:
    from heads.evaluation.evaluation import evaluate

    return evaluate(options)


def show(record: dict[str, Any]) -> None:
    if not record:
        return
    from heads.reporting.entries import marked
    from heads.score import show_scores

    options = record["options"]
    if unlike := record["disclosed"].get("unlike"):
        print(UNLIKE.format(**unlike))
    show_scores(options["task"], record["scores"], marked(record))
    if record["skipped"]["clips"]:
        print(
            "skipped: {rows} rows, for {clips} clips that the store lacks".format(
                **record["skipped"]
            )
        )
    elif record["skipped"]["rows"]:
        print("skipped: {rows} rows, for texts that the view lacks".format(**record["skipped"]))
    print(f"predictions: {options['out']}")


def main(argv: list[str] | None = None) -> int:
    with first_prints():
        return parse(EvaluateOptions, argv, "heads.evaluate", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "finished batches are kept; run the same command for the rest")
