"""The table of error codes: each code means the same with any status, and every list of botocore is in it."""

import json
from importlib.resources import files

import pytest
from botocore.exceptions import ClientError
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.errors import FileTooLarge, StorageRefused, StorageRejected, StorageUnavailable
from reactor.core.refusal import Scope
from reactor.storage.stores.s3_codes import Row, table
from reactor.storage.stores.s3_codes_others import CODES
from reactor.storage.stores.s3_errors import error_for

STATUSES = st.sampled_from([200, *range(300, 600)])
ROWS = st.sampled_from(sorted(CODES.values()))


def answer(status: int, code: str) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}, "PutObject")  # type: ignore[typeddict-item]


@given(row=ROWS, status=STATUSES)
def test_a_code_means_the_same_with_every_status(row: Row, status: int) -> None:
    error = error_for(answer(status, row.code))
    fault = row.fault
    if fault.is_size or status == 413:
        assert isinstance(error, FileTooLarge)
    elif fault.scope is Scope.SHARED:
        assert isinstance(error, StorageRefused)
        assert (error.refusal.guard, error.refusal.reason) == (fault.guard, row.code)
        assert error.refusal.check == fault.check != ""
    elif fault.scope is Scope.PASSING or status >= 500 or status in {408, 425, 429}:
        assert isinstance(error, StorageUnavailable)
    else:
        assert isinstance(error, StorageRejected)
        assert error.refusal.reason == row.code
        assert error.refusal.may_be_shared is (fault.may_be_shared or status in {401, 403})


@given(
    code=st.from_regex("[A-Z][A-Za-z]{3,30}", fullmatch=True).filter(lambda code: code not in CODES), status=STATUSES
)
def test_an_unknown_code_is_the_uploads_fault_below_500(code: str, status: int) -> None:
    error = error_for(answer(status, code))
    expected = StorageUnavailable if status >= 500 or status in {408, 425, 429} else StorageRejected
    assert isinstance(error, FileTooLarge if status == 413 else expected)


@given(code=st.sampled_from(["", "404", "403", "0", " ", "Not Found", "Forbidden by WAF", "é"]), status=STATUSES)
def test_without_a_code_of_the_store_any_status_is_passing(code: str, status: int) -> None:
    assert isinstance(error_for(answer(status, code)), FileTooLarge if status == 413 else StorageUnavailable)


def test_every_throttling_code_of_botocore_is_passing() -> None:
    retries = json.loads((files("botocore") / "data" / "_retry.json").read_text())
    listed = set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES)  # type: ignore[attr-defined]
    listed |= set(TransientRetryableChecker._TRANSIENT_ERROR_CODES)  # type: ignore[attr-defined]
    policies = [retries["definitions"]]
    policies += [service.get("__default__", {}).get("policies", {}) for service in retries["retry"].values()]
    for policy in (policy for group in policies for policy in group.values()):
        listed.add(policy.get("applies_when", {}).get("response", {}).get("service_error_code"))
    listed -= {None, "IDPCommunicationError"}  # of STS: it concerns the reactor's credentials
    assert len(listed) > 15
    for code in listed:
        assert isinstance(error_for(answer(400, code)), StorageUnavailable), code


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_row_has_a_reason_and_says_what_to_check_if_it_is_shared(code: str) -> None:
    row = CODES[code]
    assert row.code == code
    assert row.reason
    assert bool(row.fault.check) is (row.fault.scope is Scope.SHARED or row.fault.may_be_shared)


def test_a_code_with_two_rows_is_refused() -> None:
    row = CODES["NoSuchBucket"]
    with pytest.raises(ValueError, match="NoSuchBucket"):
        table([row], [row])
