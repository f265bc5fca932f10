"""Sizes of WeatherMesh: for grids of a few degrees, and those of WeatherMesh-2 and -3 at 0.25°."""

from typing import Any

WM2_LEVELS = (
    50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550, 600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950,
    975, 1000,
)  # fmt: skip
"""25 levels in hPa, closest near the ground."""

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "patch": (2, 2, 2), "dim": 64, "heads": 2, "window": (3, 5, 5), "encoder_depth": 1, "decoder_depth": 1,
        "processors": {6: 2}, "surface_width": 16,
    },
    "WM-2": {
        "patch": (4, 8, 8), "dim": 768, "heads": 24, "window": (5, 7, 7), "encoder_depth": 2, "decoder_depth": 2,
        "processors": {1: 10, 6: 10}, "surface_width": 32, "position": "rotary",
    },
    "WM-3": {
        "patch": (4, 8, 8), "dim": 1024, "heads": 32, "window": (5, 7, 7), "encoder_depth": 2, "decoder_depth": 2,
        "processors": {6: 8}, "surface_width": 32, "position": "sincos",
    },
}  # fmt: skip
"""Arguments of `WeatherMesh` by size."""
