"""One scoring system for all jobs."""
