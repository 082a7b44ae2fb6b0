"""The client API for services and agents: reserve, complete and fail uploads, run interpretations, read usage.

A refusal is raised as an exception of reactor/core/errors.py; exceptions of psycopg never reach the caller.
"""
