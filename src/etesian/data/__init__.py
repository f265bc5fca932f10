"""From any file to training samples."""
