"""Servers that tests start and stop: PostgreSQL, PgBouncer, a proxy, object stores, OTLP collectors."""
