"""A PostgreSQL server of the reactor's own, for demo, tests and first steps."""
