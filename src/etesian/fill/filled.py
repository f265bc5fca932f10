"""What filled fields hold: each channel and, beside it, its uncertainty, what was observed, and a flag."""

from typing import Any, Literal

import numpy as np

from etesian.core.channels import Channel

Resolution = Literal["monthly", "daily"]

DEVIATION, COUNT, FLAG = "_standard_deviation", "_observations", "_flag"
"""Suffixes of what stands beside a channel."""

FILLED, UNOBSERVED, ON_LAND = 0, 1, 2
"""Values of a flag: filled from observations; nothing observed in the whole month; land."""


def filled_attributes(units: str, channel: Channel, suffix: str, target: Resolution) -> dict[str, Any]:
    """Return the attributes of a filled channel, or of what stands beside it under its name and a suffix."""
    known: dict[str, dict[str, Any]] = {
        "": {"units": units},
        DEVIATION: {"units": units, "long_name": f"standard deviation of the error of {channel}"},
        COUNT: {"units": "1", "long_name": f"times in the month at which {channel} was observed"},
        FLAG: {
            "flag_values": np.array([FILLED, UNOBSERVED, ON_LAND], np.int8),
            "flag_meanings": "filled nothing_observed_in_month land",
        },
    }
    attributes = known[suffix]
    if target == "monthly" and suffix in ("", DEVIATION):
        attributes["cell_methods"] = "time: mean (over the calendar month)"
    return attributes
