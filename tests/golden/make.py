"""Golden files: a small world, its feature store, two heads and their answers, written by one
version of the code.

    mkdir /tmp/golden && python tests/golden/make.py /tmp/golden

makes everything in that empty folder, packs what the tests read into tests/golden/golden.tar.xz and
writes tests/golden/golden.json: the commands, the machine, and the sha256 of what they made.
tests/test_golden.py runs the commands again and compares. Make the files again only where the bytes
are meant to change, and say so in the changelog.
"""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# variables that choose other instructions than the processor's best: `make test SIMD=oldest` sets
# them
LIMITS = (
    "NPY_DISABLE_CPU_FEATURES OPENBLAS_CORETYPE ATEN_CPU_CAPABILITY MKL_ENABLE_INSTRUCTIONS "
    "ONEDNN_MAX_CPU_ISA NUMBA_CPU_NAME FAISS_SIMD_LEVEL GLIBC_TUNABLES"
).split()
PACKAGES = ("polars", "numpy", "torch", "transformers", "safetensors")
PROVENANCE = f"--encoder golden --weights-sha256 {'0' * 64} --layer last --frames 4 --crop none"
FEATURIZE = "featurize --encoder clip --weights clip --layer -2 --frames 4 --workers 1"
COMMANDS = {
    "kitchen": ["stepdiff.kitchen --out world --videos 24 --seed 27 --seconds 2"],
    "clips": [
        f"{FEATURIZE} --manifest {manifest} --store {{store}}"
        for manifest in ("world/train.csv", "world/other.csv", "small.csv", "world/texts.csv")
    ],
    "featurize": [
        f"{FEATURIZE} --manifest {manifest} --store {{store}}"
        for manifest in ("small.csv", "world/texts.csv")
    ],
    "verify": ["store verify features"],
    "order": [
        "store compact features",
        f"{FEATURIZE} --manifest late.csv --store features",
    ],
    "requantise": ["store requantise features --view clip --to {small} --dtype int8"],
    "import": [
        f"store import clips.parquet --store {{store}} --view net --dtype int8 {PROVENANCE}",
        f"store import clips.parquet --store {{store}} --view half --features embedding=embedding "
        f"{PROVENANCE}",
        f"store import texts.parquet --store {{store}} --view net --entity texts {PROVENANCE}",
        f"store import texts.parquet --store {{store}} --view net2 --entity clips {PROVENANCE}",
        "store compact {store}",
    ],
    "train": [
        f"heads.train --config {head}.yaml --out {{runs}}/{head}" for head in ("align", "stepdiff")
    ],
    "embed": ["heads.embed --head runs/align --store features --view {aligned}"],
    "retrieval": [
        "retrieval negatives --store features --view clip --test-set world/diffcap_val.jsonl "
        "--variant V3 --out {out}/diffmcq_val.jsonl",
        *(
            "retrieval negatives --store features --view clip --text-view clip --test-set "
            f"world/diffcap_test.jsonl --variant {variant} --out {{out}}/negatives_{variant}.jsonl"
            for variant in ("V1", "V2", "V3")
        ),
        "retrieval neighbours --store features --view clip -k 4 --out {out}/neighbours.parquet",
    ],
    "evaluate": [
        f"heads.evaluate --store features --task {task} --test-set {test_set}.jsonl --rows {rows} "
        f"--bootstrap 50 --out {{out}}/{task}_{name}.jsonl --method {method}"
        for task, test_set, rows, name, method in (
            ("diffcap", "world/diffcap_test", 3, "stepdiff", "stepdiff --head runs/stepdiff"),
            ("diffmcq", "out/negatives_V2", 8, "stepdiff", "stepdiff --head runs/stepdiff"),
            ("diffrank", "world/diffrank_test", 8, "stepdiff", "stepdiff --head runs/stepdiff"),
            (
                "diffrank",
                "world/diffrank_test",
                8,
                "shuffled",
                "stepdiff --head runs/stepdiff --control shuffled",
            ),
            ("diffmcq", "out/negatives_V1", 20, "aligned", "vlemb --view aligned"),
            ("diffrank", "world/diffrank_test", 20, "clip", "vlemb --view clip"),
            ("diffrank", "world/diffrank_test", 20, "step", "step-oracle"),
        )
    ],
}
PACKED = (
    "features",
    "clip",
    "lm",
    "runs",
    "out",
    "small",
    "align.yaml",
    "stepdiff.yaml",
    "*.csv",
    "pairqa.jsonl",
)
WORLD = ("world.json", "*_val.jsonl", "*_test.jsonl", "train.csv", "other.csv", "texts.csv")
PROJECTOR = {"width": 16, "heads": 2, "layers": 1, "frames": 4}
SCHEDULE = {"steps": 4, "warmup": 1, "validate_every": 2}
HELD_OUT = [f"world/{task}_test.jsonl" for task in ("diffcap", "diffrank")]
ALIGN = {
    "view": "clip",
    "text_view": "clip",
    "width": 16,
    "clips": 16,
    "projector": {**PROJECTOR, "outputs": 1},
    "schedule": SCHEDULE,
}
STEPDIFF = {
    "view": "clip",
    "language_model": "lm",
    "pairqa": "pairqa.jsonl",
    "batch": 2,
    "questions": 4,
    "precision": "float32",
    "projector": {**PROJECTOR, "outputs": 4},
    "schedule": SCHEDULE,
    "lora": {"rank": 2},
    "validation": {
        "diffmcq": "out/diffmcq_val.jsonl",
        "diffrank": "world/diffrank_val.jsonl",
        "rows": 2,
    },
}

_RUN = """
import json, runpy, sys
for line in json.loads(sys.argv[1]):
    module, *sys.argv[1:] = line.split()
    module += ".__main__" if "." not in module else ""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as ending:
        if ending.code not in (0, 1 if "small.csv" in line else 0):  # one of its clips fails
            raise SystemExit(f"exit status {ending.code}: {line}") from None
"""


def run(kinds: str, folder: Path, **places: str) -> str:
    """Run the commands of these kinds (names with spaces between) in one process with one thread;
    return its output."""
    lines = [line.format(**places) for kind in kinds.split() for line in COMMANDS[kind]]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-c", _RUN, json.dumps(lines)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"{lines}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def machine() -> dict[str, Any]:
    """Return what decides the last bits of a float: a digest of the processor's kind and LIMITS,
    and the libraries."""
    kind = [platform.machine()]
    if Path("/proc/cpuinfo").is_file():
        fields = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        found = {name.strip(): value for name, _, value in reversed(fields)}
        kind += [found.get(name, "") for name in ("vendor_id", "cpu family", "model")]
        vector = ("avx", "amx", "fma", "sse", "asimd", "sve")
        flags = f"{found.get('flags', '')} {found.get('Features', '')}".split()
        kind += sorted(flag for flag in flags if flag.startswith(vector))
    kind += [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    return {
        "processor": sha(" ".join(kind).encode()),
        "packages": {name: version(name) for name in PACKAGES},
    }


def sha(data: bytes) -> str:
    """Return the first 16 hex digits of a sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """Return the digest of every finished row of every array, and the reason of each failure, by
    view and key."""
    from store import Store

    store, found = Store.open(folder), {}
    for entity in store.entities():
        for name in store.views(entity):
            view = store.view(entity, name)
            rows = (view.status() == 1).nonzero()[0]
            keys = store.catalog(entity).keys(rows)
            for feature in view.features:
                values = view.read(feature, rows)
                found[f"{entity}/{name}/{feature}"] = {
                    key: sha(value.tobytes()) for key, value in zip(keys, values, strict=True)
                }
            found[f"{entity}/{name} failed"] = dict(
                view.failures().select("key", "reason").iter_rows()
            )
    return found


def files_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a store whose bytes are a promise; of shard records,
    without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            path.is_file()
            and not path.name.startswith(".")
            and path.suffix != ".keys"
            and "lock" not in path.name
        ):
            data = path.read_bytes()
            if name.startswith("shards/"):
                data = json.dumps([write["rows"] for write in json.loads(data)["writes"]]).encode()
            found[name] = sha(data)
    return found


def make_models(folder: Path) -> None:
    """Write a CLIP and a Llama of random weights, a few kilobytes each."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(
        folder / "clip"
    )
    small = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **small,
                **ends,
                "hidden_size": 16,
                "vocab_size": len(pieces),
                "max_position_embeddings": 64,
            },
            vision_config={**small, "hidden_size": 72, "image_size": 32, "patch_size": 16},
            projection_dim=16,
        )
    )
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "clip")
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=crop).save_pretrained(
        folder / "clip"
    )

    vocabulary = {
        token: i for i, token in enumerate(["<|end|>", "<|im_start|>", "<|im_end|>", *letters])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder / "lm")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=vocabulary["<|im_end|>"],
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.2,  # with the usual 0.02 a random model hardly depends on its input
    )
    LlamaForCausalLM(config).save_pretrained(folder / "lm")


def make_inputs(folder: Path) -> None:
    """Write manifests, two stills, a short video and recipes."""
    import av
    import numpy as np
    import yaml
    from PIL import Image

    world, small = folder / "world", folder / "small"
    small.mkdir(exist_ok=True)
    with open(world / "clips.csv", newline="") as file:
        clips = list(csv.DictReader(file))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        with open(folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write("world/train.csv", [clip for clip in clips if clip["split"] == "train"])
    write("world/other.csv", [clip for clip in clips if clip["split"] != "train"])
    random = np.random.default_rng(0)
    pictures = np.repeat(
        np.repeat(random.integers(0, 256, (24, 6, 8, 3), dtype=np.uint8), 8, 1), 8, 2
    )
    with av.open(str(small / "short.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=8, width=64, height=48, pix_fmt="yuv420p")
        for picture in pictures:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        video.mux(stream.encode())
    Image.fromarray(pictures[0]).save(small / "still.png")
    Image.fromarray(pictures[1]).save(small / "still.jpg", quality=90)
    spans = [
        ("short.mp4", 0, 1),
        ("short.mp4", 1, 2.5),
        ("short.mp4", 2, 1),
        ("still.png", 0, 1),
        ("still.jpg", 0, 1),
    ]
    rows = [
        {
            "clip": f"small-{i}",
            "video": f"small/{name}",
            "start": start,
            "end": end,
            "split": "train",
        }
        for i, (name, start, end) in enumerate(spans)
    ]
    write("small.csv", rows)
    write("late.csv", [{**rows[0], "clip": "late", "end": 2}])
    questions = (world / "pairqa_train.jsonl").read_text().splitlines()
    (folder / "pairqa.jsonl").write_text(
        "".join(line + "\n" for line in questions[:: len(questions) // 120])
    )
    for name, recipe in (("align", {"contrastive": ALIGN}), ("stepdiff", {"video_lm": STEPDIFF})):
        recipe |= {"store": "features", "hold_out": HELD_OUT, "device": "cpu"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))


def make_tables(folder: Path) -> None:
    """Write the golden features as Parquet of others, without metadata and provenance; clips in the
    order of keys."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from store import Store
    from store.exchange.arrow import record_batches

    for entity in ("clips", "texts"):
        view = Store.open(folder / "features").view(entity, "clip")
        table = pa.Table.from_batches(record_batches(view, columns=()))
        pq.write_table(
            table.sort_by("key") if entity == "clips" else table, folder / f"{entity}.parquet"
        )


def pack(folder: Path) -> None:
    """Write the archive: the same files give the same bytes."""
    named = [path for name in PACKED for path in folder.glob(name)]
    named += [path for name in WORLD for path in (folder / "world").glob(name)]
    files = {path for found in named for path in [found, *found.rglob("*")] if path.is_file()}
    left_out = ("lock", "tfevents", "loss.png", "speed.jsonl")  # they name the host, or the time
    files = {path for path in files if not any(part in path.name for part in left_out)}

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o644
        return entry

    with tarfile.open(HERE / "golden.tar.xz", "w:xz", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            archive.add(path, path.relative_to(folder).as_posix(), filter=plain)


def main(folder: Path) -> None:
    """Make all golden files in an empty folder."""
    print(run("kitchen", folder))
    make_models(folder)
    make_inputs(folder)
    for name in ("runs", "out"):
        (folder / name).mkdir()
    places = {
        "store": "features",
        "runs": "runs",
        "out": "out",
        "small": "small",
        "aligned": "aligned",
    }
    print(run("clips order", folder, **places))
    print(run("requantise retrieval train embed evaluate", folder, **places))
    make_tables(folder)
    print(run("import", folder, store="imported"))
    golden = {
        "machine": machine(),
        "world": {
            path.name: sha(path.read_bytes()) for path in sorted((folder / "world").glob("*.json*"))
        },
        "rows": rows_of(folder / "features"),
        "files": files_of(folder / "features"),
        "import": files_of(folder / "imported"),
    }
    (HERE / "golden.json").write_text(
        json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    pack(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
