"""Entry of `ray job submit --working-dir . -- python featurize.py ...`: it calls the package."""

if __name__ == "__main__":
    from common.cli import command, startup

    startup.install()  # before the slow imports
    from featurize.__main__ import INTERRUPTED, main

    command.run(main, INTERRUPTED)
