"""HTML pages about training runs and data sets, each a single file."""
