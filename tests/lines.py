"""Run lines of `python -m MODULE ...` or `python SCRIPT` from standard input in order in one
process, so that modules are imported once and Ray is started once. Stop at the first line that
fails, with its exit status.

A line that sets PYTHONPATH runs in a separate process with its own Ray.
"""

import glob
import os
import runpy
import shlex
import subprocess
import sys

from stepdiff_core.workers.cluster import connected


def run(line: str) -> None:
    if line.startswith("PYTHONPATH="):
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        subprocess.run(["sh", "-c", line], check=True, env={**os.environ, "PATH": path})
        return
    if not line.startswith("python -m "):
        runpy.run_path(line.removeprefix("python "), run_name="__main__")
        return
    module, *given = shlex.split(line)[2:]
    arguments = [
        name for part in given for name in (sorted(glob.glob(part)) if "*" in part else [part])
    ]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            print(f"{line}: exit status {end.code}", file=sys.stderr)
            raise


with connected(None, "featurize"):
    for line in sys.stdin.read().splitlines():
        run(line)
