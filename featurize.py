"""Entry of `ray job submit --working-dir . -- python featurize.py ...`: calls the package."""

if __name__ == "__main__":
    raise SystemExit(__import__("featurize.__main__", fromlist=["main"]).main())
