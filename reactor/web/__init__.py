"""The operator page: shows problems, since when they exist and how to fix them. Changes need the token."""
