"""Text that a terminal or a browser may show: no escape sequences, no bidirectional controls, no line ends."""

from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable(value: object, *, replacement: str = REPLACEMENT) -> str:
    """Return the text of a value with each unprintable character replaced. The result is one line."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else replacement for char in text)
