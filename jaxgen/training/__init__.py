"""Training: state, step, loop, checkpoints and logs."""
