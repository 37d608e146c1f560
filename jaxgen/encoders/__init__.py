"""Towers that condition or judge: encoders of pictures (and, in time, of text) whose features others learn from."""
