"""Any text of a notification is decoded or raises BadPayload; no text raises another error."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.postgres.notification import BadPayload, Hint, Payload, decode

ROW = "0123456789abcdef0123456789abcdef"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
nearly_ours = st.fixed_dictionaries(
    {"v": st.just(1) | values, "at": st.integers() | values},
    optional={"rescan": st.booleans() | values, "rows": st.lists(st.lists(st.just(ROW) | values, max_size=5)) | values},
)


def test_rows_are_hints_with_times_from_at() -> None:
    text = json.dumps({"v": 1, "at": 1_000_000, "rows": [[ROW, -7, 250], [ROW, 7, None, 400], [ROW, 0, None]]})
    assert decode(text).hints == (
        Hint(UUID(ROW), -7, 1_000_250, None),
        Hint(UUID(ROW), 7, None, 999_600),
        Hint(UUID(ROW), 0, None, None),
    )


def test_a_rescan_names_no_rows() -> None:
    assert decode('{"v":1,"at":5,"rescan":true}') == Payload(rescan=True)


def decodes_or_is_refused(text: str) -> None:
    try:
        payload = decode(text)
    except BadPayload:
        return
    assert payload.rescan or payload.hints
    assert all(isinstance(hint.row_id, UUID) for hint in payload.hints)


@given(st.text())
def test_any_text_decodes_or_is_refused(text: str) -> None:
    decodes_or_is_refused(text)


@given(values | nearly_ours)
def test_any_json_decodes_or_is_refused(value: object) -> None:
    decodes_or_is_refused(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "1",
        '{"v":2,"at":1,"rows":[]}',
        '{"v":1,"at":1,"rows":[]}',
        '{"v":1,"at":-1,"rows":[["' + ROW + '",1,0]]}',
        '{"v":1,"at":1,"rows":[["' + ROW + '",1,1e9]]}',
        '{"v":1,"at":1,"rows":[["' + ROW + '",true,0]]}',
        '{"v":1,"at":1,"rows":[["' + ROW.upper() + '",1,0]]}',
        '{"v":1,"at":1,"rows":[["not an id",1,0]]}',
        '{"v":1,"at":1,"rows":[["' + ROW + '",4294967296,0]]}',
        '{"v":1,"at":1,"rows":[["' + ROW + '",1,99999999999999999999]]}',
        "[" * 4000,
        '{"v":1,"rescan":true}' + " " * 8000,
    ],
)
def test_what_our_triggers_never_send_is_refused(text: str) -> None:
    with pytest.raises(BadPayload):
        decode(text)
