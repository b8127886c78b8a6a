"""Token counts and shares of the horizon: read as people write them, printed exactly."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.units import format_tokens, parse_span, parse_tokens, span_tokens

any_machine = settings(deadline=None)


@any_machine
@given(st.integers(0, 2**63))
def test_token_counts_are_read_as_printed(count):
    assert parse_tokens(format_tokens(count)) == count


@any_machine
@given(st.sampled_from("KMBT"), st.integers(1, 999), st.integers(0, 99))
def test_round_token_counts_are_printed_short(suffix, whole, hundredths):
    count = (100 * whole + hundredths) * 1000 ** (" KMBT".index(suffix)) // 100
    printed = format_tokens(count)
    assert printed == re.sub(r"\.?0+$", "", f"{whole}.{hundredths:02d}") + suffix
    assert parse_tokens(printed.lower()) == parse_tokens(count) == count


@pytest.mark.parametrize(
    ("count", "printed"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (1234, "1234"),
        (1_230_000, "1.23M"),
        (2**21, "2097152"),
        (10**15, "1000T"),
    ],
)
def test_token_counts_are_printed_exactly(count, printed):
    assert format_tokens(count) == printed


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("2M", 2 * 10**6),
        ("1.5B", 15 * 10**8),
        ("1.5 k", 1500),
        ("2_000_000", 2 * 10**6),
        ("0.001K", 1),
        (1e9, 10**9),
        (0, 0),
        ("1T", 10**12),
    ],
)
def test_token_counts_as_people_write_them(written, count):
    assert parse_tokens(written) == count


@pytest.mark.parametrize(
    "written",
    ["-1", -1, "1.5", 1.5, "0.0001K", "M", "2 MB", "5%", True, None, [1], "", "nan", 1e999],
)
def test_other_token_counts_are_refused(written):
    with pytest.raises(ValueError, match="token count"):
        parse_tokens(written)


@any_machine
@given(st.integers(0, 100), st.integers(0, 99), st.integers(0, 10**15))
def test_spans_are_counts_or_exact_shares(whole, hundredths, horizon):
    written = f"{whole}.{hundredths:02d}%" if whole < 100 else "100%"
    share = 100 * whole + (hundredths if whole < 100 else 0)
    span = parse_span(f" {written} ")
    assert parse_span(span) == span == written
    assert span_tokens(span, horizon) == share * horizon // 10_000
    assert span_tokens(parse_span(format_tokens(horizon)), 0) == horizon


@pytest.mark.parametrize("written", ["100.1%", "-5%", "%", "5 percent", True, "1.5"])
def test_other_spans_are_refused(written):
    with pytest.raises(ValueError, match="share of the horizon"):
        parse_span(written)
