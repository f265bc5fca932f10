"""What all tasks share: loss, optimiser, checkpoints."""
