"""A deterministic simulation in one thread: reactors, database, store, workload and faults."""
