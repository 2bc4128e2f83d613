"""Random batches of rows: this store compared with other formats, from memory and from the disk.

python -m benchmarks.store.read                    # about 5 minutes, 2.5 GiB of disk
python -m benchmarks.store.read --mib 128 --repeats 3

Every format holds the same rows. A measurement reads random distinct rows, batch by batch, into the
same buffers; formats take turns in another order every time, and the median counts. Cold: files are
written out, every reader is closed, and posix_fadvise(DONTNEED) puts them out of the page cache;
mincore confirms it. A ceiling is a pool of threads with preadv on the raw file, the best of 8, 16 and
32 threads: with O_DIRECT that of the device, without that of the page cache. "store, direct" is how
`Batches` reads what memory could not hold, "store" how it reads all else: memory keeps it for the
next epoch. Rates are MB/s (10^6 bytes) of tokens and scales. Another table shows
what comparing rows with their checksums costs.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.report import Row, benchmark, line
from stepdiff.common.cli import command
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from benchmarks.harness.reads import Case


@dataclass(frozen=True)
class Options:
    """Compare random batches of rows with other formats."""

    mib: int = 384
    """MiB of rows in every format"""
    cold_mib: int = 384
    """MiB that a measurement from the disk reads"""
    repeats: int = 5
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary folder"""


def compared(case: "Case") -> tuple[list[Row], list[Row]]:
    """Return rows and lines of a case that was measured."""
    import numpy as np

    from benchmarks.harness.layouts import CEILING_THREADS
    from benchmarks.harness.reads import CEILINGS

    cold, warm = (
        {name: round(float(np.median(taken)), 1) for name, taken in rates.items()} for rates in (case.cold, case.warm)
    )
    for ceiling in CEILINGS:
        cold[ceiling] = max(cold.pop(f"{ceiling}, {threads}") for threads in CEILING_THREADS)
    rows: list[Row] = [
        {"case": case.name, "format": n, "cold MB/s": cold[n], "warm MB/s": warm.get(n)} for n in sorted(cold)
    ]
    rows += [{"case": case.name, "format": n, "cold MB/s": w, "warm MB/s": None} for n, w in case.absent.items()]
    held = (("store", "page cache ceiling"), ("store", "O_DIRECT ceiling"), ("store, direct", "O_DIRECT ceiling"))
    lines = [line(f"{case.name}, cold, {name}", cold[name], cold[peer], 0.9, peer) for name, peer in held]
    if case.name.startswith("4 MiB"):
        for least, peer in ((0.9, "memmap"), (2, "h5py"), (2, "h5py contiguous"), (4, "tensorstore")):
            if peer in warm:
                lines.append(line(f"{case.name}, warm", warm["store"], warm[peer], least, peer))
    return rows, lines


def run(options: Options) -> dict[str, Any]:
    """Return rows, lines, waits for the next batch, and what checksums cost."""
    from benchmarks.harness.reads import CASES, Case, first_reads

    if options.mib < 128:
        raise StepDiffError(f"--mib {options.mib}: a case needs two batches of its largest rows; give 128 or more")
    rows: list[Row] = []
    lines: list[Row] = []
    ahead: list[Row] = []
    for name in CASES:
        folder = Path(tempfile.mkdtemp(prefix="store_read_", dir=options.folder))
        try:
            case = Case(name, folder, options.mib, options.cold_mib, options.repeats)
            case.measure()
            ahead.append(case.waits())
        finally:
            shutil.rmtree(folder)
        more, held = compared(case)
        rows += more
        lines += held
    checked, held = first_reads(options.mib, max(options.repeats, 5), options.folder)
    sizes = {"mib": options.mib, "repeats": options.repeats}
    return {"rows": rows, "lines": lines + held, "read_ahead": ahead, "first_reads": checked, **sizes}


main = benchmark("store.read", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
