"""The client API for services and agents: reserve, complete and fail uploads, run interpretations, read usage.

Each refusal raises an exception of reactor/core/errors.py. The caller never gets an exception of psycopg.
"""
