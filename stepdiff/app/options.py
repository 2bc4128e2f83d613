"""Options of `stepdiff app`. The module imports nothing heavy, because --help reads it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AppOptions:
    store: str = "data/features"
    """feature store"""
    videos: str | None = None
    """folder that the catalog's video paths begin in: that of the manifest; null: no pictures"""
    runs: str | None = None
    """folder of the runs of python -m heads.train, which answer questions and compare pairs"""
    models: tuple[str, ...] = ()
    """public video language models that answer questions too: folders or hub ids whose tokens the
    store has"""
    predictions: tuple[str, ...] = ()
    """folders with the files that python -m heads.evaluate writes"""
    annotate: str | None = None
    """annotation task, a YAML file"""
    database: str | None = None
    """where annotations and notes are kept, an SQLAlchemy URL; null: SQLite next to the task, and
    next to the store"""
    host: str = "127.0.0.1"
    """address to listen on; any other than this machine's own needs --public-url"""
    port: int = 8000
    """port to listen on; 0: a free one"""
    public_url: str | None = None
    """address that other machines open, such as https://annotate.example.org: its pages are those
    of --annotate only"""
    trust_proxy: tuple[str, ...] = ()
    """IP addresses or networks of proxies in front of the server, whose X-Forwarded-For counts"""
    cache: str | None = None
    """folder of cut clips and thumbnails; null: app in the cache folder, $STEPDIFF_CACHE or
    ~/.cache/stepdiff"""
    cache_mib: int = 2048
    """largest size of that folder, in MiB"""
    device: str = "auto"
    """auto, cpu, cuda: where the model computes"""
    weights: str | None = None
    """weights of the encoder of texts, to search by a text: a folder, name or hub id; null: those
    of its name"""
