"""Reports events as log lines, metrics and spans."""
