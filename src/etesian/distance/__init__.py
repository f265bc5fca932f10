"""AtmoDist: a learned distance between states."""
