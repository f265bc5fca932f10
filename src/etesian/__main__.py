"""`python -m etesian` is the `etesian` command."""

from etesian.cli.main import main

if __name__ == "__main__":
    main()
