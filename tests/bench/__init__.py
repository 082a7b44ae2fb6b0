"""How fast the reactor is, beside its floors and its peers in the same run: `python -m tests.bench --help`."""
