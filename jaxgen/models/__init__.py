"""Generators, one file each. They read and write tokens; `interface` is the edge between tokens and pictures."""
