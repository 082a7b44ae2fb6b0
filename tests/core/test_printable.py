"""Printable text is one line that a terminal can't mistake for a command, and printable text is unchanged."""

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from reactor.core.printable import REPLACEMENT, printable


@given(st.text(st.characters(exclude_categories=[])))
@example("\x1b]52;c;cm0gLXJmIC8=\x07")
@example("\x9b2J")
@example("a\r\nb\x85c\u2028d")
@example("\u202egnp.exe\u2066\u200f")
@example("\udcff\U000e0041\ufeff")
def test_any_text_becomes_printable_with_the_same_length(text: str) -> None:
    safe = printable(text)
    assert len(safe) == len(text)
    assert safe == "" or len(safe.splitlines()) == 1
    assert not {unicodedata.category(char) for char in safe} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert all(new in (old, REPLACEMENT) for old, new in zip(text, safe, strict=True))
    assert printable(safe) == safe


def test_letters_of_every_script_are_unchanged() -> None:
    for text in ("Grüße, 東京 café.pdf", "שלום", "नमस्ते", "🙂", "a b"):
        assert printable(text) == text


def test_a_value_is_converted_and_the_replacement_can_be_chosen() -> None:
    assert printable(5) == "5"
    assert printable(None) == "None"
    assert printable("a\nb", replacement=" ") == "a b"
