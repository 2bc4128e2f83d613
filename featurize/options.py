"""Options of `python -m featurize`; importing them imports no encoder, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import Any, Literal

from featurize.video.frames import Sampling
from stepdiff_core.cli.options import FailureOptions, Mebibytes

IdFrom = Literal["stem", "path"]


@dataclass(frozen=True)
class Options(FailureOptions):
    """Options of a featurize run."""

    store: str
    """Folder of the feature store, or a URL as of s3://bucket/features; made if there is
    none."""
    encoder: str
    """Frozen encoder. hf:ID: any image or video model of transformers; vlm:ID: the vision part of
    any video language model; ID is a hub id or a folder. Clips: efficientnet-lite0, and the image
    towers of llava, blip2, idefics, idefics2 and idefics3. Texts: mpnet-base, sentence. Both:
    internvideo-mm-b16 and internvideo-mm-l14. Other names of hf: clip, siglip, videomae and vjepa2.
    Your own: package.module:Class, or an entry point of the group stepdiff.encoders."""
    manifest: str | None = None
    """File of clips (columns clip, video, start, end) or of texts: .csv, .parquet or .jsonl.
    Without one, give video files: each is one clip."""
    videos: tuple[str, ...] = ()
    """Video files, or folders of them: each video is one clip from beginning to end."""
    id_from: IdFrom = "stem"
    """What the ids of video files' clips are made from: the file's stem, as in clip_0_12.500, or
    its absolute path, which also tells files of one stem apart."""
    windows: float | None = None
    """Cut every clip into clips of so many seconds that follow one another: a long video then has
    moments to align or to search also where an encoder gives one vector for a clip. A rest below
    half of that belongs to the last."""
    column: str | None = None
    """Column of the manifest whose texts are wanted: a text, or a list of texts, a row. Default:
    text, where the manifest is not one of clips."""
    weights: str | None = None
    """Weights of the encoder: a folder or file, a hub id, or a name that `stepdiff weights list`
    shows. Default: those of the encoder's name."""
    layer: int | None = None
    """Hidden state of hf whose tokens are stored. Default: the encoder's own choice."""
    frames: int | None = None
    """Frames of a clip, for hf, vlm and the image towers. Default: 8; of video models of hf as many
    as they were trained on, of an image tower one, the centre frame."""
    sampling: Sampling | None = None
    """Which frames: linspace (from a clip's first to its last), segment-centres (the middles of
    equal segments) or centre (the middle one, repeated). Default: linspace; of an image tower
    segment-centres."""
    pooling: Literal["model", "mean", "cls", "none"] | None = None
    """Embedding of hf: model (what the model compares with texts, or its pooler's output, or the
    mean), mean (of the tokens), cls (the first token) or none. Default: model."""
    window: int | None = None
    """Frames that a video model of hf sees at once; it must divide --frames. Default: all
    frames."""
    pixels: int | None = None
    """Most pixels of a frame that the processor of vlm is given; fewer pixels make fewer tokens,
    except of models that resize every frame to one size. Default: 200704, as 448 x 448."""
    statistics: Literal["add", "only"] | None = None
    """Store statistics of early maps of efficientnet-lite0 or an image model of hf: the mean,
    maximum, minimum and deviation of each channel over the clip. add: next to the other features;
    only: nothing else. Part of the provenance. Default: as the view has them; a new view has
    none."""
    view: str | None = None
    """Name of the view in the store. Default: the encoder's name, or of hf and vlm that of the
    model."""
    dtype: Literal["float16", "int8", "float32"] = "float16"
    """How tokens are stored; int8 halves float16."""
    pool: int = 1
    """Average the tokens of each frame over squares of this many patches a side: 2 keeps a quarter
    of them."""
    shard_size: int | None = field(default=None, metadata={"type": Mebibytes | None})
    """Size of the largest feature in one shard of a new view, as 64MiB, or a number of MiB: larger
    shards are fewer files, and a worker holds one in memory. Default: 256, and less where rows are
    so small that some workers would get no shard."""
    retry_failed: bool = False
    """Try those again that failed in an earlier run. Clips whose file or interval has changed since
    are tried again without it."""
    replace: bool = False
    """Replace the features of clips whose video file or interval is another one than that they were
    computed from. Their rows become absent in every view, then this run computes them for its own
    view. Without it such a clip is refused."""
    wait: bool = False
    """Wait while another run writes into the store, instead of giving up."""
    address: str | None = None
    """Ray cluster to join, `auto` or HOST:6379; `local` starts Ray here. Default: RAY_ADDRESS, else
    Ray is started here where more than one worker is needed."""
    workers: int | None = None
    """Worker processes, each with the encoder. Default: --workers-per-gpu a GPU, else one a CPU
    (for texts one for eight CPUs). One worker on this machine, and by default at most 64 clips or
    4,096 texts, need no Ray: this process does the work. 0: the same, with all threads of this
    process."""
    device: str | None = None
    """Device of the encoder: cpu, or cuda for one GPU a worker. Default: a GPU where there is
    one."""
    workers_per_gpu: int = 1
    """Worker processes that share a GPU, each with a copy of the encoder and its share of the
    node's CPUs."""
    compile: bool = False
    """Compile the forward pass of clips with torch.compile, which takes from seconds to minutes in
    each worker. Part of the provenance, since it may change a feature's last bits."""
    batch_size: int | Literal["auto"] = "auto"
    """Clips or texts of one batch. On a GPU a model sees as many frames, windows or clips at once,
    and auto is the largest power of two for which the GPU has memory; else auto is 4 clips. Of
    texts it is 128. A row that became absent is computed in batches of its first size. Part of what
    decides a feature's last bits."""
    json: bool = False
    """Print the summary as one JSON object on standard output."""

    def choices(self) -> dict[str, Any]:
        """Return the choices of the encoder, as `featurize.encoders.load` takes them; None is its
        own."""
        names = ("layer", "frames", "sampling", "pooling", "window", "pixels", "statistics")
        return {name: getattr(self, name) for name in names} | {"compile": self.compile or None}
