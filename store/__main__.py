"""Look at a feature store, move features in and out, and keep it in order.

    python -m store info data/features                 what it contains
    python -m store verify data/features               read every byte; exit status 1 on damage
    python -m store plan --clips 1e6 --encoder efficientnet-lite0 --measured-in data/features
    python -m store export-hdf5 clips.h5 --store data/features --view efficientnet-lite0
    python -m store import-hdf5 clips.h5 --store data/other --view net --encoder net --weights-sha256 0123... \\
        --layer last --frames "8 evenly" --crop "centre 224"
    python -m store requantise data/features --view efficientnet-lite0 --to small --dtype int8
    python -m store drop data/features --view small --yes
    python -m store compact data/features
"""

from common.cli import command
from common.cli.verbs import choose

VERBS = {
    "info": ("store.commands:info", "list views, features, finished and failed rows, bytes"),
    "verify": ("store.commands:verify", "compare every file with its checksum and name the damaged clips"),
    "plan": ("store.commands:plan", "estimate the bytes, shards, files and hours of a job"),
    "import-hdf5": ("store.commands:import_hdf5", "copy features from an HDF5 file into a view"),
    "export-hdf5": ("store.commands:export_hdf5", "copy the finished rows of a view into an HDF5 file"),
    "requantise": ("store.commands:requantise", "make a new view with the largest feature in another dtype"),
    "drop": ("store.commands:drop", "remove a view"),
    "compact": ("store.commands:compact", "merge small files and delete unused ones"),
}


def main(argv: list[str] | None = None) -> int:
    return choose("store", __doc__ or "", VERBS, argv, aliases={"requantize": "requantise"})


if __name__ == "__main__":
    command.run(main, "finished work is kept; run the same command for the rest")
