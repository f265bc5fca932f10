"""Score, report, plot."""
