"""Scores as sums and weights: one implementation, used in validation and by `evaluate`."""

from etesian.metrics.scores import STATISTICS, WIND_PAIRS, Metric, Sums, accumulate
from etesian.metrics.weights import WHOLE_DOMAIN, Weighting, point_weights

__all__ = ["STATISTICS", "WHOLE_DOMAIN", "WIND_PAIRS", "Metric", "Sums", "Weighting", "accumulate", "point_weights"]
