"""Where examples come from: sources, their order, captions and text tokens, and batches as global arrays."""
