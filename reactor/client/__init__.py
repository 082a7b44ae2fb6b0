"""What services and agents call: reserve, complete and fail uploads, run interpretations, see usage.

A refusal is an exception of reactor/core/errors.py, with code, retryable and details; no traceback of psycopg ever.
"""
