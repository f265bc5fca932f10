"""A page on one's own machine on which data, forecasts and scores are looked at."""
