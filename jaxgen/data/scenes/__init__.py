"""Rendered scenes of coloured shapes: what is in them, how they look, what is said of them, and a checker that reads them."""
