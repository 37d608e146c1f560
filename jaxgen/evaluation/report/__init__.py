"""The evaluation report: one HTML file to open anywhere."""
