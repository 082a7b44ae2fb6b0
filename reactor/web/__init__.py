"""The operator page: what is wrong, since when, and how to mend it. Looks cheaply; changes nothing without a token."""
