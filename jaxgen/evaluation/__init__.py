"""What became of a run: pictures to look at, metrics and the report."""
