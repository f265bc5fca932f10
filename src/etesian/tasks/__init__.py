"""Tasks own loss, normalisation, optimiser and schedule."""
