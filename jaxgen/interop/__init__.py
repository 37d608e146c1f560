"""Published checkpoints in and out of the package's models, by one table of names per family."""
