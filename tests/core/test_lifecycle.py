"""What the tables of moves promise."""

from reactor.core.lifecycle import RUN_MOVES, UPLOAD_MOVES, RunState, RunVerb, UploadState, UploadVerb
from reactor.core.model import Verdict

GONE = {UploadState.STORED, UploadState.PURGED}
ENDED = {RunState.COMPLETED, RunState.FAILED}


def test_every_verb_moves_something() -> None:
    assert {verb for _, verb in UPLOAD_MOVES} == set(UploadVerb)
    assert {verb for _, verb in RUN_MOVES} == set(RunVerb)


def test_what_is_gone_or_ended_never_moves() -> None:
    assert {state for state, _ in UPLOAD_MOVES} == set(UploadState) - GONE
    assert {state for state, _ in RUN_MOVES} == set(RunState) - ENDED


def test_an_upload_that_is_there_can_always_still_be_stored() -> None:
    """No upload row is ever lost: each state but the gone ones leads to STORED."""
    reaching = {UploadState.STORED}
    while more := {state for (state, _), to in UPLOAD_MOVES.items() if to in reaching} - reaching:
        reaching |= more

    assert reaching == set(UploadState) - {UploadState.PURGED}


def test_only_a_claimed_upload_is_settled() -> None:
    settlements = {UploadVerb.STORE, UploadVerb.RETRY, UploadVerb.DEFER, UploadVerb.BURY, UploadVerb.RESCUE}

    assert {state for state, verb in UPLOAD_MOVES if verb in settlements} == {UploadState.UPLOADING}


def test_each_verdict_has_its_move_from_uploading() -> None:
    verbs = {
        Verdict.STORED: UploadVerb.STORE,
        Verdict.RETRY: UploadVerb.RETRY,
        Verdict.DEAD: UploadVerb.BURY,
        Verdict.DEFERRED: UploadVerb.DEFER,
    }

    assert set(verbs) == set(Verdict)
    assert all((UploadState.UPLOADING, verb) in UPLOAD_MOVES for verb in verbs.values())


def test_only_what_was_given_up_is_purged() -> None:
    purged = {state for state, verb in UPLOAD_MOVES if verb is UploadVerb.PURGE}

    assert purged == {UploadState.DEAD, UploadState.CANCELLED}
