"""Entry of `ray job submit --working-dir . -- python featurize.py ...`: it calls the package."""

from featurize.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
