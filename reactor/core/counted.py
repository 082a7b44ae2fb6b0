"""Numbers with their noun, for people: 1 user, 2 users."""


def counted(count: int, noun: str) -> str:
    """Return a count of at least 0 with its noun, which gets an s unless the count is 1."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
