"""The transitions in tests/schema/state_machine.py are consistent, and the database makes exactly these transitions."""

from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from schema.state_machine import RUN_TRANSITIONS, UPLOAD_TRANSITIONS, RunState, RunVerb, UploadState, UploadVerb
from support.rows import Rows

from reactor.core.model import Verdict
from reactor.postgres import statements

GONE = {UploadState.STORED, UploadState.PURGED}
ENDED = {RunState.COMPLETED, RunState.FAILED}
_VERDICTS = {
    UploadVerb.STORE: Verdict.STORED,
    UploadVerb.RETRY: Verdict.RETRY,
    UploadVerb.DEFER: Verdict.DEFERRED,
    UploadVerb.BURY: Verdict.DEAD,
}


def test_every_verb_has_a_transition() -> None:
    assert {verb for _, verb in UPLOAD_TRANSITIONS} == set(UploadVerb)
    assert {verb for _, verb in RUN_TRANSITIONS} == set(RunVerb)


def test_deleted_uploads_and_ended_runs_have_no_transitions() -> None:
    assert {state for state, _ in UPLOAD_TRANSITIONS} == set(UploadState) - GONE
    assert {state for state, _ in RUN_TRANSITIONS} == set(RunState) - ENDED


def test_every_existing_upload_can_still_be_stored() -> None:
    """STORED is reachable from every state except PURGED."""
    leads_to_stored = {UploadState.STORED}
    while more := {state for (state, _), to in UPLOAD_TRANSITIONS.items() if to in leads_to_stored} - leads_to_stored:
        leads_to_stored |= more

    assert leads_to_stored == set(UploadState) - {UploadState.PURGED}


def test_only_a_claimed_upload_is_settled() -> None:
    settlements = {UploadVerb.STORE, UploadVerb.RETRY, UploadVerb.DEFER, UploadVerb.BURY, UploadVerb.RESCUE}

    assert {state for state, verb in UPLOAD_TRANSITIONS if verb in settlements} == {UploadState.UPLOADING}


def test_each_verdict_has_its_transition_from_uploading() -> None:
    assert set(_VERDICTS.values()) == set(Verdict)
    assert all((UploadState.UPLOADING, verb) in UPLOAD_TRANSITIONS for verb in _VERDICTS)


def test_only_dead_and_cancelled_uploads_are_purged() -> None:
    purged = {state for state, verb in UPLOAD_TRANSITIONS if verb is UploadVerb.PURGE}

    assert purged == {UploadState.DEAD, UploadState.CANCELLED}


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    with psycopg.connect(migrated_url, autocommit=True, row_factory=psycopg.rows.namedtuple_row) as conn:
        yield Rows(conn)


class Upload:
    """One upload that starts in a given state. `do` applies a verb to it."""

    def __init__(self, rows: Rows, state: UploadState) -> None:
        self._rows = rows
        self._token = uuid4()
        user = uuid4()
        self._source = rows.source(user)
        self._id = rows.insert(
            "upload_queue", source_id=self._source, user_id=user, bucket="b", object_path="o", byte_size=10
        )
        for verb in {
            UploadState.FAILED: [],
            UploadState.UPLOADING: [UploadVerb.CLAIM],
            UploadState.DEAD: [UploadVerb.CLAIM, UploadVerb.BURY],
            UploadState.CANCELLED: [UploadVerb.CANCEL],
            UploadState.STORED: [UploadVerb.CLAIM, UploadVerb.STORE],
            UploadState.PURGED: [UploadVerb.CANCEL, UploadVerb.PURGE],
        }[state]:
            self.do(verb)
        assert self.state is state

    @property
    def state(self) -> UploadState:
        found = self._rows.all("select status from public.upload_queue where id = %s", (self._id,))
        if found:
            return UploadState(found[0].status)
        source = self._rows.one("select storage_status from public.sources where id = %s", (self._source,))
        return UploadState.STORED if source.storage_status == "uploaded" else UploadState.PURGED

    def do(self, verb: UploadVerb) -> None:
        ids = [self._id]
        if verb in _VERDICTS:
            arguments = (
                ids,
                [self._token],
                [_VERDICTS[verb].value],
                [0.0],
                ["STORAGE_REJECTED"],
                ["no"],
                ["file:///b/o"],
                500,
                1,
            )
            self._rows.all(statements.SETTLE_UPLOADS, arguments)
        elif verb is UploadVerb.CLAIM:
            self._rows.all(statements.CLAIM_UPLOADS, (ids, self._token, "1 minute"))
        elif verb is UploadVerb.RESCUE:
            self._rows.run("update public.upload_queue set lease_expires_at = now() - interval '1 s'")
            self._rows.all(statements.RESCUE_UPLOADS, (ids, 1))
        else:
            self._rows.all(
                {
                    UploadVerb.CANCEL: "select reactor.cancel_uploads(%s)",
                    UploadVerb.REQUEUE: "select reactor.requeue_uploads(%s)",
                    UploadVerb.PURGE: "select reactor.purge_uploads(%s)",
                }[verb],
                (ids,),
            )


@pytest.mark.parametrize("state", UploadState)
def test_an_upload_makes_the_transitions_of_the_table_and_no_others(rows: Rows, state: UploadState) -> None:
    for verb in UploadVerb:
        upload = Upload(rows, state)
        upload.do(verb)
        assert upload.state is UPLOAD_TRANSITIONS.get((state, verb), state), verb
        rows.run("delete from public.sources")


def _fail(rows: Rows, run: UUID) -> None:
    rows.all("select reactor.fail_runs(%s, 'enough')", ([run],))


def _expire(rows: Rows, run: UUID) -> None:
    rows.all(statements.EXPIRE_RUNS, ([run], "1 minute"))


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize(("verb", "do"), [(RunVerb.FAIL, _fail), (RunVerb.EXPIRE, _expire)])
def test_a_run_makes_the_transitions_of_the_table_and_no_others(
    rows: Rows, state: RunState, verb: RunVerb, do: Callable[[Rows, UUID], None]
) -> None:
    user = uuid4()
    run = rows.insert(
        "interpretation_runs", user_id=user, source_id=rows.source(user), status=state.value, timeout_at=rows.at(-1)
    )
    do(rows, run)
    ended = rows.one("select status from public.interpretation_runs where id = %s", (run,))
    assert ended.status == RUN_TRANSITIONS.get((state, verb), state)
