"""Callers of the SQL functions: services with a direct connection, and users of a gateway like PostgREST."""

import json
from contextlib import ExitStack
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from reactor.core.error_codes import CATALOGUE
from support.rows import Rows

NIL = UUID(int=0)
SERVICE_ONLY = {"heartbeat_interpretations", "recalculate_usage", "set_plan"}

Answer = dict[str, Any]


def content_hash(content: object = None) -> str:
    """Return the SHA-256 of `content`; if it is None, the SHA-256 of a random text."""
    return sha256(str(content or uuid4()).encode()).hexdigest()


class Api:
    """One caller: a service with the connection's own role, or a gateway that acts in `role` with JWT `claims`."""

    def __init__(self, rows: Rows, role: str | None = None, claims: str = "") -> None:
        self.rows = rows
        self.status: str | None = None
        """The HTTP status that the last call set for the gateway; None if it set none."""

        self._role = role
        self._claims = claims

    @classmethod
    def of(cls, rows: Rows, user: UUID) -> "Api":
        """Return a caller with this user's JWT."""
        return cls(rows, "authenticated", json.dumps({"sub": str(user), "role": "authenticated"}))

    def call(self, function: str, /, **arguments: Any) -> Answer:
        """Call a function of schema public in its own transaction. Dicts and lists are sent as jsonb."""
        names = [sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in arguments]
        values = [Jsonb(value) if isinstance(value, dict | list) else value for value in arguments.values()]
        with ExitStack() as stack:
            stack.enter_context(self.rows.conn.transaction())
            if self._role:
                self.rows.run(sql.SQL("set local role {}").format(sql.Identifier(self._role)))
                self.rows.all("select set_config('request.jwt.claims', %s, true)", (self._claims,))
            answer: Answer = self.rows.one(
                sql.SQL("select public.{}({}) as answer").format(sql.Identifier(function), sql.SQL(", ").join(names)),
                values,
            ).answer
            self.status = self.rows.one("select nullif(current_setting('response.status', true), '') as set").set
        return answer

    def ok(self, function: str, /, **arguments: Any) -> Answer:
        """Call a function, assert that its answer is `ok`, and return the answer."""
        answer = self.call(function, **arguments)
        assert answer["ok"] is True, answer
        assert self.status is None
        return answer

    def refused(self, code: str, function: str, /, **arguments: Any) -> Answer:
        """Call a function, assert that it refuses with `code` as the catalogue describes it; return the details."""
        answer = self.call(function, **arguments)
        assert (answer["ok"], answer.get("code")) == (False, code), answer
        assert set(answer) == {"ok", "code", "message", "retryable", "details"}
        assert answer["retryable"] is CATALOGUE[code].retryable
        assert answer["message"].strip()
        assert self.status == str(CATALOGUE[code].http_status)
        details: Answer = answer["details"]
        assert isinstance(details, dict)
        return details

    # common calls

    def reserve(self, user: UUID, size: int = 10, content: object = None) -> UUID:
        """Reserve `size` bytes for a user; return the source."""
        answer = self.ok("reserve_upload", p_user_id=user, p_content_hash=content_hash(content), p_byte_size=size)
        return UUID(answer["source_id"])

    def store(self, user: UUID, size: int = 10) -> UUID:
        """Reserve and complete an upload; return the source."""
        source = self.reserve(user, size)
        self.ok("complete_upload", p_source_id=source, p_storage_url="s3://bucket/key")
        return source

    def fail(self, source: UUID, **arguments: Any) -> UUID:
        """Report that the app's own attempt failed; return the queued upload."""
        answer = self.ok("fail_upload", **failed(source) | arguments)
        return UUID(answer["queue_id"])

    def begin(self, source: UUID, **arguments: Any) -> UUID:
        """Start an interpretation; return the run."""
        return UUID(self.ok("begin_interpretation", p_source_id=source, **arguments)["run_id"])

    def usage(self, user: UUID) -> Answer:
        return self.ok("get_usage", p_user_id=user)

    def limit(self, user: UUID, *, bytes_: int | None = None, runs: int | None = None) -> None:
        """Set a user's own limits. None means the plan's limit."""
        self.rows.run(
            "insert into public.storage_usage (user_id, storage_limit_bytes, interpretation_limit_month)"
            " values (%s, %s, %s) on conflict (user_id) do update set"
            " (storage_limit_bytes, interpretation_limit_month)"
            " = (excluded.storage_limit_bytes, excluded.interpretation_limit_month)",
            (user, bytes_, runs),
        )


def failed(source: UUID) -> Answer:
    """Return the arguments of fail_upload for a source."""
    return {"p_source_id": source, "p_bucket": "bucket", "p_object_path": "a/key", "p_temp_file_path": "a/file"}
