"""A whole run from recipe to file and report, its output folder, and the controls that it is held against."""
