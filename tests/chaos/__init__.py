"""Real faults on real processes: kills, restarts, network faults, pauses, failover. Run with `pytest -m chaos`."""
