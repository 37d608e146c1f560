"""Compile before you rent: the real step through the TPU's own compiler, and what its program says of memory and time."""
