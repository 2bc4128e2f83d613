"""Runs lines of `python -m MODULE ...` from standard input one after the other in one process, so that what they
import is imported once; ends with the first that fails, and its exit status.
"""

import runpy
import shlex
import sys

for line in sys.stdin.read().splitlines():
    module, *arguments = shlex.split(line)[2:]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            print(f"{line}: exit status {end.code}", file=sys.stderr)
            raise
