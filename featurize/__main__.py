"""Turn videos or texts into features of a store. Rows that are finished are kept and not computed
again.

    python -m featurize clip.mp4 --store features --encoder efficientnet-lite0
    python -m featurize --manifest data/kitchen/clips.csv --store data/features \\
        --encoder efficientnet-lite0
    python -m featurize --manifest data/kitchen/clips.csv --column narration \\
        --store data/features --encoder mpnet-base
    ray job submit --working-dir . -- python featurize.py --manifest /data/clips.csv \\
        --store /data/features --encoder clip
"""

import json
from dataclasses import asdict

from featurize.options import Options
from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse
from stepdiff_core.progress import say

INTERRUPTED = "finished rows are kept; run the same command for the rest"
"""state that an interrupted run leaves, and how to continue"""


def run(options: Options) -> int:
    """Run the job and print its summary; returns 1 if rows failed and that is not allowed."""
    from featurize import job

    summary = job.run(options, job.requested(options))
    for line in summary.lines():
        say(line) if options.json else print(line)
    if options.json:
        print(json.dumps(asdict(summary)))
    return summary.status(options.allow_failed)


def main(argv: list[str] | None = None) -> int:
    return parse(Options, argv, "featurize", __doc__, run, positional=("videos",))


if __name__ == "__main__":
    command.run(main, INTERRUPTED)
