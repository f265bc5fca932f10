"""Fields with holes and networks that cannot tell a hole from the mean."""

from collections.abc import Mapping

from etesian.core import Channel
from etesian.core.errors import RecipeError
from etesian.networks.network import Network


def judge_holes(network: Network, holes: Mapping[Channel, float]) -> str:
    """Say what stands in for missing inputs of a network that does not know of them; nothing if it does.

    Args:
        network: to train.
        holes: share of missing values of each input that has any.

    Raises:
        RecipeError: if the network could know of them, but was not told that there are any.
    """
    if not holes or network.takes_holes:
        return ""
    parts = [f"{channel} ({share:.2g} of its values)" for channel, share in sorted(holes.items(), key=lambda i: -i[1])]
    named = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    kind = type(network).__name__
    if hasattr(network, "validity"):
        raise RecipeError(
            f"values are missing in {named}, and {kind} would take them for the mean; set validity: true among its "
            "arguments (--model.init_args.network.init_args.validity true)"
        )
    return f"Missing values enter {kind} as the mean, which it cannot tell from a hole: {named}"
