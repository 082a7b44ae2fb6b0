"""Values, rules and data structures without I/O, clock or randomness."""
