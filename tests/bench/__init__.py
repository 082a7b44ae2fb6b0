"""The benchmark: the reactor next to its floors and its peers in the same run. See `python -m tests.bench --help`."""
