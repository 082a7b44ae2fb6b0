"""An embedded PostgreSQL server for the demo, the tests and `reactor run` without a database."""
