"""`python -m etesian` is the `etesian` command."""

from etesian.cli.main import main

main()
