"""Serve the pages: explore clips, ask about pairs, compare methods, annotate differences.

stepdiff app --store data/features --videos data/kitchen --runs runs --predictions data/demo
stepdiff app --store data/features --videos data/kitchen --annotate data/annotation.yaml
stepdiff app ... --annotate data/annotation.yaml --public-url https://annotate.example.org --trust-proxy 127.0.0.1
"""

import sys
from dataclasses import dataclass

from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import stages


@dataclass(frozen=True)
class AppOptions:
    store: str = "data/features"
    """feature store"""
    videos: str | None = None
    """folder that the catalog's video paths begin in: that of the manifest; null: no pictures"""
    runs: str | None = None
    """folder of the runs of python -m heads.train, which answer questions and compare pairs"""
    models: tuple[str, ...] = ()
    """public video language models that answer questions too: folders or hub ids whose tokens the store has"""
    predictions: tuple[str, ...] = ()
    """folders with the files that python -m heads.evaluate writes"""
    annotate: str | None = None
    """annotation task, a YAML file"""
    database: str | None = None
    """where annotations and notes are kept, an SQLAlchemy URL; null: SQLite next to the task, and next to the store"""
    host: str = "127.0.0.1"
    """address to listen on; any other than this machine's own needs --public-url"""
    port: int = 8000
    """port to listen on; 0: a free one"""
    public_url: str | None = None
    """address that other machines open, such as https://annotate.example.org: its pages are those of --annotate only"""
    trust_proxy: tuple[str, ...] = ()
    """IP addresses or networks of proxies in front of the server, whose X-Forwarded-For counts"""
    cache: str | None = None
    """folder of cut clips and thumbnails; null: app in the cache folder, $STEPDIFF_CACHE or ~/.cache/stepdiff"""
    cache_mib: int = 2048
    """largest size of that folder, in MiB"""
    device: str = "auto"
    """auto, cpu, cuda: where the model computes"""
    weights: str | None = None
    """weights of the encoder of texts, to search by a text: a folder, name or hub id; null: those of its name"""


def run(options: AppOptions) -> int:
    with stages() as show:
        show("loading the libraries of the pages")
        from stepdiff.app.connections import server
        from stepdiff.app.server import create_app, listener
        from stepdiff.app.site import LOCAL, Site

        if options.host not in LOCAL and options.public_url is None:
            raise StepDiffError(f"--host {options.host}: give --public-url, the address that other machines open")
        show(f"opening the store {options.store}")
        opened = {name: value for name, value in vars(options).items() if name not in ("host", "port")}
        site = Site.open(**opened)
    with listener(options.host, options.port) as socket:
        with stages() as show:
            show("preparing the pages" if site.annotate is None else f"opening the annotation task {site.annotate}")
            application = create_app(site)
        host, port = socket.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        where = "" if site.public_url is None else f"other machines open {site.public_url}; "
        print(f"{where}Ctrl-C ends the server", file=sys.stderr)
        server(application).run(sockets=[socket])
    return 0


def main(argv: list[str] | None = None) -> int:
    return parse(AppOptions, argv, "stepdiff.app", __doc__, run)


if __name__ == "__main__":
    command.run(main, "annotations and notes, if any, are saved; run the same command again")
