"""A row's trace context comes from its traceparent or its id. Span ids come from the row's id and its claim count."""

from uuid import UUID, uuid4

import pytest

from reactor.core.trace_context import ROOT_SPAN_ID, context_of, span_ids, timeout_span_id

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROW = UUID("6e1d2c3b-4a59-4687-8b9a-0c1d2e3f4a5b")


@pytest.mark.parametrize("version", ["00", "01"])
def test_a_valid_traceparent_is_the_apps_trace(version: str) -> None:
    context = context_of(f"{version}-{TRACE}-{SPAN}-01", ROW)
    assert (context.trace_id.hex(), context.span_id.hex(), context.flags) == (TRACE, SPAN, 1)
    assert not context.is_ours


def test_a_traceparent_with_the_root_span_id_was_made_by_the_database() -> None:
    context = context_of(f"00-{TRACE}-{ROOT_SPAN_ID.hex()}-03", ROW)
    assert ROOT_SPAN_ID.hex() == "72656163746f7200"
    assert (context.trace_id.hex(), context.span_id) == (TRACE, ROOT_SPAN_ID)
    assert context.is_ours


def test_further_fields_are_ignored_in_later_versions_only() -> None:
    assert context_of(f"01-{TRACE}-{SPAN}-01-more", ROW).trace_id.hex() == TRACE
    assert context_of(f"00-{TRACE}-{SPAN}-01-more", ROW).trace_id.hex() != TRACE


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-01"],
)
def test_a_row_without_a_valid_traceparent_has_a_trace_of_its_own(traceparent: str | None) -> None:
    context = context_of(traceparent, ROW)
    assert context == context_of(None, ROW)
    assert context.is_ours
    assert context.flags & 1
    assert context.trace_id.hex() != TRACE
    assert context.trace_id != context_of(None, uuid4()).trace_id


def test_span_ids_are_distinct_and_reproducible() -> None:
    ids = [*span_ids(ROW, 1), *span_ids(ROW, 2), *span_ids(uuid4(), 1), timeout_span_id(ROW)]
    assert len(set(ids)) == len(ids)
    assert {len(span_id) for span_id in ids} == {8}
    span_ids.cache_clear()
    assert ids[:5] == [*span_ids(ROW, 1)]
