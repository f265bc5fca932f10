"""Scores of ensembles: members that are equally likely, against what happened."""

import torch
from jaxtyping import Float
from torch import Tensor

_FEW = 8
"""Members up to which all pairs of them are compared one by one."""


def ensemble_crps(
    members: Float[Tensor, "member *axes"], truth: Float[Tensor, "*axes"], fairness: float = 1.0
) -> Float[Tensor, "*axes"]:
    """Return the continuous ranked probability score of members, in their units.

    The mean distance of members from the truth, less half their mean distance from each other. A fair score (Ferro
    2014, doi 10.1002/qj.2270) takes the latter over pairs of different members, so that its mean does not depend on
    their number; the usual one, of their empirical distribution, over all pairs, each with itself as well. A mean of
    both with the weights α and 1 − α is almost fair (Lang et al. 2024, arXiv 2412.15832). Of one member it is the
    absolute error.

    Args:
        members: forecasts.
        truth: what happened.
        fairness: α: 1 is fair, 0 the score of the empirical distribution.
    """
    count = len(members)
    error = (members - truth).abs().mean(0)
    if count == 1:
        return error
    # Over ordered pairs of different members.
    between = _distances(members) / (count * (count - 1))
    return error - (1 - (1 - fairness) / count) * between / 2


def _distances(members: Float[Tensor, "member *axes"]) -> Float[Tensor, "*axes"]:
    """Return the sum of the distances between the members of all ordered pairs."""
    count = len(members)
    if count <= _FEW:
        return torch.stack([(members - members.roll(turn, 0)).abs().sum(0) for turn in range(1, count)]).sum(0)
    # Of sorted members, the i-th is the larger one in i pairs and the smaller one in n − 1 − i.
    often = 2 * torch.arange(count, dtype=members.dtype, device=members.device) - count + 1
    total: Tensor = 2 * torch.tensordot(often, members.sort(0).values, dims=1)
    return total


def predictive_variance(members: Float[Tensor, "member *axes"]) -> Float[Tensor, "*axes"]:
    """Return the squared error that the mean of the members should have, if they are as likely as the truth.

    Their unbiased variance times (M + 1) / M (Fortin et al. 2014, doi 10.1175/JHM-D-14-0008.1): the mean of a few
    members errs by more than that of many. NaN of one member.
    """
    if len(members) == 1:
        return torch.full_like(members[0], torch.nan)
    return members.var(0) * (len(members) + 1) / len(members)
