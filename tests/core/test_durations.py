"""Durations are parsed and formatted. Other texts and numbers are refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.durations import duration_text, format_duration, parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("0.5s", 0.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1m250ms", 60.25),
        ("2d", 172_800),
        ("1d2h3m4s5ms", 93_784.005),
        ("45", 45),
        ("1.5", 1.5),
        ("0", 0),
        (" 30s ", 30),
    ],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-5s",
        "nan",
        "inf",
        "1e3",
        "s",
        "5 m",
        "30m1h",
        "1h1h",
        "5x",
        "1,5s",
        ".5s",
        "5.s",
        "\u0663s",
    ],
)
def test_other_text_is_refused_with_a_one_line_message(text: str) -> None:
    with pytest.raises(ValueError, match="duration") as refusal:
        parse_duration_s(text)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5400, "1h30m"),
        (0.25, "250ms"),
        (0, "0s"),
        (90_061, "1d1h1m1s"),
        (30.0, "30s"),
        (1.5, "1s500ms"),
        (0.0001, "0s"),
    ],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**12))
def test_a_formatted_duration_is_parsed_back_to_the_millisecond(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, abs=1e-4)


def test_a_duration_that_overflows_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration_s("9" * 400)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_a_number_that_is_no_duration_is_not_formatted(seconds: float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        format_duration(seconds)


@given(st.text())
def test_any_text_gives_a_finite_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration_s(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


def test_durations_for_people_are_short() -> None:
    seconds = [None, -5, 0.9, 59.9, 3599, 3661, 86_399, 90_000]
    assert [duration_text(each) for each in seconds] == ["0s", "0s", "0s", "59s", "59m59s", "1h1m", "23h59m", "1d1h"]
