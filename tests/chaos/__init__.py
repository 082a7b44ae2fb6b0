"""Real faults on real processes: what the reactor promises while its surroundings break."""
