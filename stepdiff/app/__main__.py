"""Serve the pages: explore clips, ask about pairs, compare methods, annotate differences.

stepdiff app --store data/features --videos data/kitchen --runs runs --predictions data/demo
stepdiff app --store data/features --videos data/kitchen --annotate data/annotation.yaml
stepdiff app ... --annotate data/annotation.yaml --public-url https://annotate.example.org \\
    --trust-proxy 127.0.0.1
"""

import sys

from stepdiff.app.options import AppOptions
from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import stages


def run(options: AppOptions) -> int:
    with stages() as show:
        show("loading the libraries of the pages")
        from stepdiff.app.connections import server
        from stepdiff.app.server import create_app, listener
        from stepdiff.app.site import LOCAL, Site

        if options.host not in LOCAL and options.public_url is None:
            raise StepDiffError(
                f"--host {options.host}: give --public-url, the address that other machines open"
            )
        show(f"opening the store {options.store}")
        site = Site(options)
    with listener(options.host, options.port) as socket:
        with stages() as show:
            show(
                "preparing the pages"
                if site.annotate is None
                else f"opening the annotation task {site.annotate}"
            )
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
