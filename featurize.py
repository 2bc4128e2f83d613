"""Entry of `ray job submit --working-dir . -- python featurize.py ...`: it calls the package."""

if __name__ == "__main__":
    import stepdiff

    stepdiff.install()  # before the slow imports
    from featurize.__main__ import INTERRUPTED, main
    from stepdiff.common.cli import command

    command.run(main, INTERRUPTED)
