"""The engine: listens, schedules signals, claims rows, settles attempts, and reconciles with the database."""
