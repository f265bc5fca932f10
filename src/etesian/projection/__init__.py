"""Climate projection."""
