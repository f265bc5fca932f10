"""The statistics and scores that there are; docs/scores.md defines them in formulas.

Those of fields that state their own standard deviation, as Gaussians against what happened, come last.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from etesian.scores.ensembles import MemberFacts, energy_score, member_facts
from etesian.scores.registry import SCORES, MapPair, Score, register_score, register_statistic
from etesian.scores.weights import RegionGroups

Values = Float[np.ndarray, "*axes"]

LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Probabilities of the central intervals whose coverage is counted."""

_CONSTANT = 1e-14
"""Variance over mean square below which a map is constant: beyond rounding in float64, within that of float32 data."""

FORECAST_SCORES = ("mse", "rmse", "mae", "bias", "acc", "pearson", "activity")

COVERAGES = tuple(f"coverage_{round(100 * level)}" for level in LEVELS)

ENSEMBLE_SCORES = ("crps", "crps_plain", "energy_score", "spread", "spread_skill", *COVERAGES)
"""Of forecasts with members; beside them, of a single forecast, only those that become an error are numbers."""

FILLED_SCORES = (
    "rmse", "mae", "bias", "correlation", "crps", "log_score", "spread", "rmse_where_spread",
    *COVERAGES,
)  # fmt: skip


@register_statistic
def weight(pair: MapPair) -> Tensor:
    """Sum the areas."""
    return pair.groups.total(pair.use.double())


@register_statistic
def points(pair: MapPair) -> Tensor:
    """Count the points."""
    return pair.groups.count(pair.use.double())


@register_statistic
def maps(pair: MapPair) -> Tensor:
    """Count the maps."""
    return torch.ones_like(pair.once(weight))


@register_statistic
def squared_error(pair: MapPair) -> Tensor:
    """Sum (f − o)²."""
    return pair.total(pair.squared)


@register_statistic
def absolute_error(pair: MapPair) -> Tensor:
    """Sum |f − o|; of vectors, the length of the difference."""
    return pair.total(pair.squared.sqrt())


@register_statistic
def error(pair: MapPair) -> Tensor:
    """Sum f − o."""
    return pair.total(pair.error)


def _anomaly_sum(pair: MapPair, first: Tensor, second: Tensor) -> Tensor:
    """Sum the product of two anomalies, where the climatology is known."""
    if pair.climatology is None:
        return pair.total(torch.zeros_like(pair.truth))
    product = (first - pair.climatology) * (second - pair.climatology)
    return pair.total(product, pair.climatology.isfinite())


@register_statistic
def anomaly_product(pair: MapPair) -> Tensor:
    """Sum (f − c)(o − c)."""
    return _anomaly_sum(pair, pair.forecast, pair.truth)


@register_statistic
def forecast_anomaly_squared(pair: MapPair) -> Tensor:
    """Sum (f − c)²."""
    return _anomaly_sum(pair, pair.forecast, pair.forecast)


@register_statistic
def truth_anomaly_squared(pair: MapPair) -> Tensor:
    """Sum (o − c)²."""
    return _anomaly_sum(pair, pair.truth, pair.truth)


def _anomaly_correlation(pair: MapPair) -> Tensor:
    squares = pair.once(forecast_anomaly_squared) * pair.once(truth_anomaly_squared)
    return pair.once(anomaly_product) / squares.sqrt()


@register_statistic
def anomaly_correlation(pair: MapPair) -> Tensor:
    """Return the correlation of the anomalies of each pair of maps; 0 where there is none."""
    return pair.once(_anomaly_correlation).nan_to_num(0.0)


@register_statistic
def correlated_samples(pair: MapPair) -> Tensor:
    """Return 1 where the anomalies of a pair of maps have a correlation."""
    return pair.once(_anomaly_correlation).isfinite().double()


def _pattern(pair: MapPair) -> tuple[Float64[Tensor, "*maps group"], Float64[Tensor, "*maps group"]]:
    """Return the correlation of each pair of maps, and 1 where neither is constant."""
    use = pair.use
    # About any constant the variances are the same; one near the values keeps their digits.
    near = torch.where(use, pair.truth, 0.0).sum(-1, keepdim=True) / use.sum(-1, keepdim=True).clamp(min=1)
    forecast, truth = (torch.where(use, values - near, 0.0) for values in (pair.forecast, pair.truth))
    area = pair.once(weight)
    ours, theirs = pair.groups.total(forecast) / area, pair.groups.total(truth) / area
    covariance = pair.groups.total(forecast * truth) / area - ours * theirs
    squares = torch.stack([pair.groups.total(forecast.square()), pair.groups.total(truth.square())]) / area
    variances = squares - torch.stack([ours, theirs]).square()
    varies = (variances > _CONSTANT * (squares + near.square())).all(0)
    return torch.where(varies, covariance / variances.prod(0).sqrt(), 0.0), varies.double()


@register_statistic
def pattern_correlation(pair: MapPair) -> Tensor:
    """Return the correlation of each pair of maps about their own means; 0 where one is constant."""
    return pair.once(_pattern)[0]


@register_statistic
def pattern_samples(pair: MapPair) -> Tensor:
    """Return 1 where neither map of a pair is constant."""
    return pair.once(_pattern)[1]


@register_statistic
def forecast(pair: MapPair) -> Tensor:
    """Sum f about the origin."""
    return pair.total(pair.forecast - pair.origin)


@register_statistic
def origin(pair: MapPair) -> Tensor:
    """Sum the origin."""
    return pair.total(torch.full_like(pair.forecast, pair.origin))


@register_statistic
def truth(pair: MapPair) -> Tensor:
    """Sum o about the origin."""
    return pair.total(pair.truth - pair.origin)


@register_statistic
def forecast_squared(pair: MapPair) -> Tensor:
    """Sum f² about the origin."""
    return pair.total((pair.forecast - pair.origin).square())


@register_statistic
def forecast_cubed(pair: MapPair) -> Tensor:
    """Sum f³ about the origin."""
    return pair.total((pair.forecast - pair.origin) ** 3)


@register_statistic
def forecast_fourth_power(pair: MapPair) -> Tensor:
    """Sum f⁴ about the origin."""
    return pair.total((pair.forecast - pair.origin) ** 4)


@register_statistic
def truth_squared(pair: MapPair) -> Tensor:
    """Sum o² about the origin."""
    return pair.total((pair.truth - pair.origin).square())


@register_statistic
def product(pair: MapPair) -> Tensor:
    """Sum f o about the origin."""
    return pair.total((pair.forecast - pair.origin) * (pair.truth - pair.origin))


@register_score(relative=True, units="squared")
def mse(squared_error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of the squared error."""
    return squared_error / weight


@register_score(relative=True)
def rmse(squared_error: Tensor, weight: Tensor) -> Tensor:
    """Return the root of the mean over points and times."""
    return (squared_error / weight).sqrt()


@register_score()
def mae(absolute_error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of the absolute error."""
    return absolute_error / weight


@register_score()
def bias(error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of forecast − truth."""
    return error / weight


@register_score("correlated_samples", units="1")
def acc(anomaly_correlation: Tensor, correlated_samples: Tensor) -> Tensor:
    """Return the mean over times of the uncentred anomaly correlation of each pair of maps."""
    return anomaly_correlation / correlated_samples


@register_score("pattern_samples", units="1")
def pearson(pattern_correlation: Tensor, pattern_samples: Tensor) -> Tensor:
    """Return the mean over times of the correlation of each pair of maps about their own means.

    With the points' weights; ClimaX measures downscaling by Pearson correlation (arXiv 2301.10343).
    """
    return pattern_correlation / pattern_samples


@register_score("truth_anomaly_squared", relative=True, units="1")
def activity(forecast_anomaly_squared: Tensor, truth_anomaly_squared: Tensor) -> Tensor:
    """Return the root-mean-square anomaly of the forecasts over that of the truth."""
    return (forecast_anomaly_squared / truth_anomaly_squared).sqrt()


@register_score(units="1")
def correlation(
    weight: Tensor, forecast: Tensor, truth: Tensor, forecast_squared: Tensor, truth_squared: Tensor, product: Tensor
) -> Tensor:
    """Return the correlation over all points and times together, of the fields themselves."""
    covariance = product / weight - forecast / weight * (truth / weight)
    ours = forecast_squared / weight - (forecast / weight).square()
    theirs = truth_squared / weight - (truth / weight).square()
    variances = ours * theirs
    # Where a field does not vary the root is taken of 1, so that its slope stays finite.
    varies = variances > 0
    return torch.where(varies, covariance / torch.where(varies, variances, 1.0).sqrt(), torch.nan)


@register_score()
def mean(forecast: Tensor, origin: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of the forecasts over points and times."""
    return (forecast + origin) / weight


def _central(weight: Tensor, *sums: Tensor) -> list[Tensor]:
    """Return the variance, and as many further moments about the mean as there are sums of powers."""
    first, *raw = (part / weight for part in sums)
    central = [raw[0] - first.square()]
    if len(raw) > 1:
        central.append(raw[1] - 3 * first * raw[0] + 2 * first**3)
    if len(raw) > 2:
        central.append(raw[2] - 4 * first * raw[1] + 6 * first.square() * raw[0] - 3 * first**4)
    return central


@register_score(relative=True)
def standard_deviation(weight: Tensor, forecast: Tensor, forecast_squared: Tensor) -> Tensor:
    """Return the standard deviation of the forecasts over points and times."""
    return _central(weight, forecast, forecast_squared)[0].sqrt()


@register_score(units="1")
def skewness(weight: Tensor, forecast: Tensor, forecast_squared: Tensor, forecast_cubed: Tensor) -> Tensor:
    """Return the skewness of the forecasts over points and times."""
    variance, third = _central(weight, forecast, forecast_squared, forecast_cubed)
    return third / variance.sqrt() ** 3


@register_score(units="1")
def excess_kurtosis(
    weight: Tensor, forecast: Tensor, forecast_squared: Tensor, forecast_cubed: Tensor, forecast_fourth_power: Tensor
) -> Tensor:
    """Return the kurtosis of the forecasts over points and times, less the Gaussian's."""
    sums = forecast, forecast_squared, forecast_cubed, forecast_fourth_power
    variance, _, fourth = _central(weight, *sums)
    return fourth / variance.square() - 3


@register_score(relative=True)
def mean_gradient(forecast: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of maps of the gradient's magnitude."""
    return forecast / weight


@register_score("maps", relative=True, units="squared")
def spectrum(forecast_squared: Tensor, maps: Tensor) -> Tensor:
    """Return the power of the forecasts in each group of waves, on average over maps."""
    return forecast_squared / maps


@register_score("truth_squared", relative=True, units="1")
def spectral_ratio(forecast_squared: Tensor, truth_squared: Tensor) -> Tensor:
    """Return the power of the forecasts over that of the truth, with their paired interval."""
    return forecast_squared / truth_squared


@register_score(relative=True, units="squared")
def semivariance(forecast_squared: Tensor, weight: Tensor) -> Tensor:
    """Return half the mean squared difference of two points, of maps of differences."""
    return forecast_squared / weight / 2


def log_score(error: Values, deviation: Values) -> Values:
    """Return the negative logarithm of the probability density, in nats; lower is better."""
    return np.asarray(0.5 * np.log(2 * np.pi) + np.log(deviation) + 0.5 * (error / deviation) ** 2)


def crps(error: Values, deviation: Values) -> Values:
    """Return the continuous ranked probability score (Gneiting et al. 2005, eq. 5), in the units of the error.

    doi 10.1175/MWR2904.1.
    """
    z = error / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def inside(error: Values, deviation: Values, probability: float) -> NDArray[np.bool_]:
    """Return whether the truth lies in the central interval of a probability."""
    return np.asarray(np.abs(error) <= deviation * ndtri(0.5 + probability / 2))


def _where_stated(pair: MapPair, values: Tensor | None) -> Tensor:
    """Sum what needs a stated uncertainty, where there is one: a deviation, or members, though there be only one."""
    if pair.members is not None and values is not None:
        return pair.total(values)
    if pair.deviation is None or values is None:
        return pair.total(torch.zeros_like(pair.truth))
    return pair.total(values, pair.deviation.isfinite())


def _members(pair: MapPair) -> MemberFacts:
    """Return what is known of the members at each point."""
    assert pair.members is not None
    return member_facts(pair.members, pair.truth, LEVELS)


@register_statistic
def stated_weight(pair: MapPair) -> Tensor:
    """Sum the areas where an uncertainty is stated."""
    return _where_stated(pair, torch.ones_like(pair.truth))


@register_statistic
def stated_variance(pair: MapPair) -> Tensor:
    """Sum the stated variances; of members, the one that the error of their mean should have."""
    if pair.members is not None:
        return _where_stated(pair, pair.once(_members).predictive_variance())
    return _where_stated(pair, None if pair.deviation is None else pair.deviation.square())


@register_statistic
def stated_squared_error(pair: MapPair) -> Tensor:
    """Sum (f − o)² where an uncertainty is stated."""
    return _where_stated(pair, pair.squared)


@register_statistic
def ranked_probability(pair: MapPair) -> Tensor:
    """Sum the continuous ranked probability score: the fair one of members, else that of a Gaussian."""
    if pair.members is not None:
        return _where_stated(pair, pair.once(_members).crps())
    if pair.deviation is None:
        return _where_stated(pair, None)
    return _where_stated(pair, torch.from_numpy(crps(pair.error.numpy(), pair.deviation.numpy())))


@register_statistic
def plain_ranked_probability(pair: MapPair) -> Tensor:
    """Sum the continuous ranked probability score of the members' empirical distribution."""
    return _where_stated(pair, None if pair.members is None else pair.once(_members).crps(0.0))


def _energy(pair: MapPair) -> Tensor:
    if pair.members is None or not isinstance(pair.groups, RegionGroups):
        return torch.full_like(pair.once(weight), torch.nan)
    return energy_score(pair.members, pair.truth, pair.use, pair.groups.weights)


@register_statistic
def energy(pair: MapPair) -> Tensor:
    """Return the energy score of the members' maps; 0 where there is none."""
    return pair.once(_energy).nan_to_num(0.0)


@register_statistic
def energy_samples(pair: MapPair) -> Tensor:
    """Return 1 where maps of members have an energy score."""
    return pair.once(_energy).isfinite().double()


@register_statistic
def gaussian_log_score(pair: MapPair) -> Tensor:
    """Sum the negative logarithm of a Gaussian's density."""
    if pair.deviation is None:
        return _where_stated(pair, None)
    return _where_stated(pair, torch.from_numpy(log_score(pair.error.numpy(), pair.deviation.numpy())))


@register_score("stated_weight", relative=True, name="crps")
def _mean_crps(ranked_probability: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the mean continuous ranked probability score; of a single forecast it is the mean absolute error."""
    return ranked_probability / stated_weight


@register_score("stated_weight", relative=True)
def crps_plain(plain_ranked_probability: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the mean CRPS of the members' empirical distribution, which falls as their number grows."""
    return plain_ranked_probability / stated_weight


@register_score("energy_samples", relative=True, name="energy_score")
def _mean_energy_score(energy: Tensor, energy_samples: Tensor) -> Tensor:
    """Return the mean over times of the fair energy score of each map."""
    return energy / energy_samples


@register_score("stated_weight", units="1", name="log_score")
def _mean_log_score(gaussian_log_score: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the mean negative logarithm of the density of Gaussians with the stated deviations, in nats."""
    return gaussian_log_score / stated_weight


@register_score("stated_weight", relative=True)
def spread(stated_variance: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the root of the mean stated variance."""
    return (stated_variance / stated_weight).sqrt()


@register_score("stated_weight", relative=True, units="1")
def spread_skill(stated_variance: Tensor, stated_squared_error: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the root of the mean stated variance over the root-mean-square error; 1 where uncertainty is right."""
    return ((stated_variance / stated_weight) / (stated_squared_error / stated_weight)).sqrt()


@register_score("stated_weight", relative=True)
def rmse_where_spread(stated_squared_error: Tensor, stated_weight: Tensor) -> Tensor:
    """Return the root-mean-square error where a deviation is stated."""
    return (stated_squared_error / stated_weight).sqrt()


def _register_coverage(level: float) -> None:
    """Make the share of the truth inside the central interval of a probability a score."""
    percent = round(100 * level)

    def held(pair: MapPair) -> Tensor:
        if pair.members is not None:
            there = pair.once(_members).inside[level]
            return _where_stated(pair, torch.full_like(pair.truth, torch.nan) if there is None else there)
        if pair.deviation is None:
            return _where_stated(pair, None)
        return _where_stated(pair, torch.from_numpy(inside(pair.error.numpy(), pair.deviation.numpy(), level)).double())

    def coverage(inside: Tensor, stated_weight: Tensor) -> Tensor:
        return inside / stated_weight

    held.__name__, name = f"inside_{percent}", f"coverage_{percent}"
    register_statistic(held)
    SCORES[name] = Score(name, coverage, (held.__name__, "stated_weight"), "stated_weight", False, "1")


for _level in LEVELS:
    _register_coverage(_level)
