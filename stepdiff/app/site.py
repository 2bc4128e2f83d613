"""The content of the pages: store, videos, runs and predictions. Opened once, before the server."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import polars as pl
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, TypeAdapter, ValidationError

from stepdiff.app.cache import Cache
from stepdiff.app.compare.files import Library
from stepdiff.app.options import AppOptions
from stepdiff.comparison.clips import clock
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tars import is_regular
from stepdiff_core.weights.registry import cache_folder
from store import Store

# names of this machine, which only itself reaches
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
NO_NUL = r"^[^\x00]*$"  # pattern of texts from outside: PostgreSQL and file names cannot have a NUL
MOST_ROW = 2**40  # a row's number, at most
BEST = "best.json"  # the file that names the checkpoint of a finished training
MOST_SECONDS = 1e7  # end of a clip in its video
MOST_RUNS = 200  # runs that are looked at
CLIP = {
    "key": pl.String,
    "video": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    "step": pl.String,
}
"""columns of the catalog that every page needs; a catalog may lack all but `key`"""


class Sent(BaseModel):
    """A body that a page sends: no other keys, and no value of another type."""

    model_config = ConfigDict(strict=True, extra="forbid")


class UnknownError(StepDiffError):
    """Something that an address names and that does not exist: status 404."""


class RefusedError(StepDiffError):
    """A request that is refused with a status; it may succeed after `retry_after` seconds.

    more: keys of the page besides the message, such as the `field` that it marks.
    """

    def __init__(
        self, message: str, status: int, retry_after: int | None = None, **more: object
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after, self.more = status, retry_after, more


@dataclass(frozen=True)
class ClipRecord:
    """A clip of the catalog."""

    key: str
    video: str | None  # path in the folder of videos
    start: float | None  # seconds
    end: float | None  # seconds
    step: str | None

    @property
    def title(self) -> str:
        """Its file and its times in it, or its id if they are unknown: the id of a file's clip is a
        hash."""
        if self.video is None or self.start is None or self.end is None:
            return self.key
        return f"{PurePath(self.video).name}, {clock(self.start)} to {clock(self.end)}"


class Site:
    """Everything that the pages read."""

    def __init__(self, options: AppOptions) -> None:
        """Open everything that the options name.

        Raises:
            StepDiffError: Something that is named does not exist or cannot be read.
        """
        if options.public_url is not None and options.annotate is None:
            raise StepDiffError(
                "--public-url: other machines reach the annotation pages only: give --annotate TASK"
            )
        if options.trust_proxy and options.public_url is None:
            raise StepDiffError(
                "--trust-proxy: give the address that the proxy has, with --public-url URL"
            )
        folder = (
            cache_folder() / "app" if options.cache is None else Path(options.cache).expanduser()
        )
        self.options = options
        self.store = Store.open(options.store)
        self.videos = None if options.videos is None else _folder(options.videos, "videos")
        self.runs = None if options.runs is None else _folder(options.runs, "runs")
        self.predictions = [_folder(path, "predictions") for path in options.predictions]
        self.library = Library(self.predictions, [] if self.videos is None else [self.videos])
        self.annotate = None if options.annotate is None else Path(options.annotate)
        self.cache = Cache(folder, options.cache_mib * 2**20)
        self.public_url = None if options.public_url is None else _origin(options.public_url)
        """scheme, host and port under which other machines reach the pages, as a browser's Origin
        header has it"""
        # addresses that set X-Forwarded-For
        self._proxies = tuple(map(_network, options.trust_proxy))

    def trusts(self, address: str) -> bool:
        """Return whether an address belongs to a proxy whose X-Forwarded-For counts."""
        try:
            client = ipaddress.ip_address(address)
        except ValueError:  # of a client that has gone
            return False
        return any(client in network for network in self._proxies)

    def clip(self, key: str) -> ClipRecord:
        """Return a clip of the catalog. Raises UnknownError if it has none of that id."""
        return self.clips([key])[0]

    def clips(self, keys: Sequence[str]) -> list[ClipRecord]:
        """Return clips of the catalog in the order of `keys`. Raises UnknownError if it has none of
        an id."""
        records = self.clips_by_id(keys)
        for key in keys:
            if key not in records:
                raise UnknownError(f"the store has no clip {key[:200]!r}")
        return [records[key] for key in keys]

    def clips_by_id(self, keys: Iterable[str]) -> dict[str, ClipRecord]:
        """Return the clips of the catalog among `keys`, by id."""
        catalog = self.store.catalog("clips")
        frame = catalog.select(catalog.rows(list(dict.fromkeys(keys))), pl.DataFrame(schema=CLIP))
        return {clip["key"]: ClipRecord(**clip) for clip in frame.drop("row").to_dicts()}

    def file(self, clip: ClipRecord) -> Path:
        """Return the video file of a clip.

        Raises:
            UnknownError: There are no videos, the catalog does not know the clip's place in them,
                or the path leads out of the folder of videos.
        """
        if self.videos is None:
            raise UnknownError("no pictures: start the server with --videos FOLDER")
        if clip.video is None or clip.start is None or clip.end is None:
            raise UnknownError(f"the catalog has no video, start and end of clip {clip.key!r}")
        if not 0 <= clip.start < clip.end <= MOST_SECONDS:
            raise UnknownError(
                f"clip {clip.key!r} from {clip.start:g} to {clip.end:g} s is no part of a video"
            )
        path = None if "\0" in clip.video else (self._root / clip.video).resolve()
        if path is None or not path.is_relative_to(self._root) or not is_regular(path):
            raise UnknownError(f"{clip.video!r} is not a file in the folder of videos")
        return path

    def run_folders(self, file: str) -> list[Path]:
        """Return which have a file: the folder of runs, those in it, and those one level below."""
        root = self.runs
        folders = (
            [] if root is None else [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
        )
        return [folder for folder in folders if (folder / file).is_file()]

    @cached_property
    def _root(self) -> Path:
        assert self.videos is not None
        return self.videos.resolve()


def _folder(path: str, name: str) -> Path:
    if not Path(path).is_dir():
        raise StepDiffError(f"{name}: {path} is not a folder: give another, or leave --{name} out")
    return Path(path)


def _origin(url: str) -> str:
    try:
        origin = str(TypeAdapter(AnyHttpUrl).validate_python(url)).removesuffix("/")
    except ValidationError:
        origin = ""
    if not re.fullmatch(r"https?://[^/?#@]+", origin):
        raise StepDiffError(
            f"--public-url {url!r}: give scheme and host only, such as https://annotate.example.org"
        )
    return origin


def _network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(address)
    except ValueError as error:
        raise StepDiffError(
            f"--trust-proxy: {error}: give an IP address, or a network such as 10.0.0.0/8"
        ) from None
