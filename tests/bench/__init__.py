"""The benchmark measures the reactor, its floors and its peers in one run. See `python -m tests.bench --help`."""
