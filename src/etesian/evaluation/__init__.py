"""Judge forecasts: scores with their certainty, reports and pictures."""

from etesian.evaluation.evaluate import evaluate
from etesian.evaluation.plots import plot
from etesian.evaluation.report import write_report
from etesian.evaluation.tables import summary, verdicts

__all__ = ["evaluate", "plot", "summary", "verdicts", "write_report"]
