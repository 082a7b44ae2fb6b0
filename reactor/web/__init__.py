"""The operator page: what is wrong, since when, and how to repair it. Reading is cheap; changes need the token."""
