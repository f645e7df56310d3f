"""The HTML report: collect values from a run directory or a model file, draw them on one page."""
