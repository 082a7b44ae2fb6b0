"""Each exception has a message, and becomes the JSON object that SQL functions return for the same error."""

from reactor.core.errors import (
    ConfigInvalid,
    DatabaseRefused,
    DatabaseUnavailable,
    InvalidArgument,
    NotFound,
    SpoolFileMissing,
    SpoolUnavailable,
    StorageRefused,
    StorageRejected,
    StorageUnavailable,
    error_of,
)
from reactor.core.refusal import Guard, Refusal, Scope


def test_an_error_without_a_message_has_the_message_of_the_catalogue() -> None:
    error = NotFound()

    assert str(error) == error.catalogued.message == "No row has this id."
    assert error.details == {}


def test_an_error_becomes_the_object_that_sql_functions_return() -> None:
    assert InvalidArgument("size is negative", details={"argument": "size"}).to_dict() == {
        "ok": False,
        "code": "INVALID_ARGUMENT",
        "message": "size is negative",
        "retryable": False,
        "details": {"argument": "size"},
    }


def test_an_error_is_made_from_its_code() -> None:
    error = error_of("NOT_FOUND", "no such upload", {"id": 7})

    assert type(error) is NotFound
    assert (str(error), error.details) == ("no such upload", {"id": 7})


def test_changing_the_details_that_were_passed_does_not_change_the_error() -> None:
    details = {"id": 7}
    error = NotFound(details=details)
    details["id"] = 8

    assert error.details == {"id": 7}


def test_store_errors_contain_the_status_and_retry_after_of_the_store() -> None:
    unavailable = StorageUnavailable("503", http_status=503, retry_after_s=2.0)
    rejected = StorageRejected("403", http_status=403, may_be_shared=True)

    assert (str(unavailable), unavailable.store_http_status, unavailable.refusal.retry_after_s) == ("503", 503, 2.0)
    assert (str(rejected), rejected.store_http_status, rejected.refusal.may_be_shared) == ("403", 403, True)
    assert error_of("STORAGE_REJECTED", "403", {"a": 1}).details == {"a": 1}
    assert not StorageRejected().refusal.may_be_shared


def test_a_config_error_lists_its_problems_without_escape_sequences() -> None:
    error = ConfigInvalid("lease\x1b[31m is wrong", "port is wrong")

    assert error.problems == ("lease [31m is wrong", "port is wrong")
    assert str(error) == "lease [31m is wrong; port is wrong"


def test_each_failure_of_an_attempt_has_a_scope_and_a_place() -> None:
    assert StorageUnavailable().refusal.scope is Scope.PASSING
    assert (StorageRejected().refusal.scope, StorageRejected().refusal.guard) == (Scope.UPLOAD, Guard.BUCKET)
    assert StorageRefused(reason="ExpiredToken").refusal == Refusal(scope=Scope.SHARED, reason="ExpiredToken")
    assert (SpoolUnavailable().refusal.scope, SpoolUnavailable().refusal.guard) == (Scope.SHARED, Guard.SPOOL)
    assert (SpoolFileMissing().refusal.scope, SpoolFileMissing().refusal.guard) == (Scope.UPLOAD, Guard.SPOOL)
    assert DatabaseUnavailable().refusal.scope is Scope.PASSING
    assert DatabaseRefused(sqlstate="23514").refusal == Refusal(scope=Scope.UPLOAD, reason="23514")
