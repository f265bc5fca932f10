"""Physical constants and time units, each defined once."""

STANDARD_GRAVITY = 9.80665
"""Standard acceleration of gravity, m s⁻² (ISO 80000-3)."""

EARTH_RADIUS = 6.371229e6
"""Mean radius of the sphere that ECMWF and NCEP use in their models, m."""

SOLAR_CONSTANT = 1361.0
"""Solar radiation at the mean distance of the earth, W m⁻² (Kopp and Lean 2011, 1360.8 ± 0.5)."""

ZERO_CELSIUS = 273.15
"""0 °C in kelvin."""

SECONDS_PER_HOUR = 3600

SECONDS_PER_DAY = 86400

HOURS_PER_YEAR = 8760
"""Years are counted in the noleap calendar, where each is as long as any other; the data's own calendar is not used."""
