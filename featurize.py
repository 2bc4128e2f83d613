"""Entry of `ray job submit --working-dir . -- python featurize.py ...`: it calls the package."""

if __name__ == "__main__":
    import stepdiff_core

    stepdiff_core.install()  # before the slow imports
    from featurize.__main__ import INTERRUPTED, main
    from stepdiff_core.cli import command

    command.run(main, INTERRUPTED)
