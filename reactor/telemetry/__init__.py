"""What the reactor reports: events as log lines, metrics and spans."""
