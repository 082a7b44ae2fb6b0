"""Checks of the database: connection, version, migrations, privileges, row level security, LISTEN, clock."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

from reactor.core.settings import Settings
from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem, warning
from reactor.postgres.migrate import OLDEST_SERVER, Step, plan
from reactor.postgres.server_info import ServerIdentity, ServerProbe

_NOTIFICATION_TIMEOUT_S = 2.0
"""Longer than the 1 s within which a reactor must receive its canary."""

_CLOCK_SKEW_S = 5.0
_QUEUE_WARNING = 0.05
_QUEUE_PROBLEM = 0.5
"""Share of the notification queue. At this usage, the triggers stop notifying: schema/functions/lib_send_hints.sql."""

_DIRECT_FIX = "set REACTOR_LISTEN_URL to a direct connection (on Supabase: port 5432, not 6543)"
_NAMES_SHOWN = 3
_RUNS_TRIED = 20
"""Maximum number of overdue runs that the doctor tries to fail, each in a transaction that it rolls back."""


class DatabaseChecks:
    """Checks of the configured database. They use one connection, and a second connection to listen."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url or ""
        self._listen_url = settings.listen_url or self._url
        self._listen_setting = "REACTOR_LISTEN_URL" if settings.listen_url else "REACTOR_DATABASE_URL"
        self._heartbeat_timeout_s = settings.heartbeat_timeout_s
        self._opened = ExitStack()
        self._steps: Sequence[Step] = ()

    def group(self) -> CheckGroup:
        """Return the checks, in order."""
        connect = "check host, port, user and password in REACTOR_DATABASE_URL, and that the server is running"
        migrate = "run `reactor migrate` as the tables' owner; connect the reactor as reactor_worker"
        listen = f"check {self._listen_setting}; it needs a direct connection to the same database"
        slow = "check the server's log and load; the check itself takes milliseconds"
        checks = [
            Check("database", self._connect, connect),
            Check("server version", self._version, slow, needs=["database"]),
            Check("primary", self._primary, slow, needs=["database"]),
            Check("migrations", self._migrations, migrate, needs=["database", "server version"]),
            Check("role", self._role, self._grant_fix("…"), needs=["database", "migrations"]),
            Check("row level security", self._row_level_security, slow, needs=["database", "migrations"]),
            Check("refused rows", self._refused_rows, slow, needs=["database", "primary", "migrations", "role"]),
            Check("listen", self._listen, listen, needs=["database", "primary"]),
            Check("notification queue", self._queue, slow, needs=["database"]),
            Check("clock", self._clock, slow, needs=["database"]),
        ]
        return CheckGroup(checks, close=self._opened.close)

    # one method per check

    def _connect(self) -> Iterator[Finding]:
        self._server = self._opened.enter_context(closing(ServerProbe(self._url)))
        self._identity = identity = self._server.identity()
        suffix = ", through a pooler" if identity.is_pooled else ""
        yield ok("database", f"connected to {self._server.address}/{identity.database} as {identity.role}{suffix}")

    def _version(self) -> Iterator[Finding]:
        major, minor = divmod(self._server.version_number, 10_000)
        if self._server.version_number < OLDEST_SERVER:
            fix = f"upgrade to PostgreSQL {OLDEST_SERVER // 10_000} or newer"
            yield problem("server version", f"PostgreSQL {major}.{minor} is too old", fix)
        else:
            yield ok("server version", f"PostgreSQL {major}.{minor}")

    def _primary(self) -> Iterator[Finding]:
        if self._identity.is_standby:
            fix = "point REACTOR_DATABASE_URL at the primary; with several hosts, add target_session_attrs=read-write"
            yield problem("primary", "the server is a standby: it can neither write nor notify", fix)
        else:
            yield ok("primary", "the server accepts writes")

    def _migrations(self) -> Iterator[Finding]:
        self._steps = steps = plan(self._url)
        edited = [s.file.name for s in steps if s.state == "changed" and not s.file.is_function]
        if edited:
            fix = "restore schema/migrations as it was released, and put the change into a new file"
            yield problem("migrations", f"{_first_names(edited)} edited after being applied", fix)
        if pending := [s.file.name for s in steps if s.state != "applied" and s.file.name not in edited]:
            seen = f"{len(pending)} of {len(steps)} schema files are not applied: {_first_names(pending)}"
            yield problem("migrations", seen, "run `reactor migrate` as the tables' owner")
        if not edited and not pending:
            yield ok("migrations", f"all {len(steps)} schema files are applied, none was edited")

    def _role(self) -> Iterator[Finding]:
        identity = self._identity
        if missing := self._server.missing_privileges():
            yield problem("role", "; ".join(missing), self._grant_fix(identity.role))
        elif identity.is_superuser or identity.bypasses_rls:
            privilege = "is a superuser" if identity.is_superuser else "bypasses row level security"
            fix = "connect as reactor_worker: `alter role reactor_worker password …`, then set REACTOR_DATABASE_URL"
            yield warning("role", f"{identity.role} {privilege}: the reactor needs far less", fix)
        else:
            yield ok("role", f"{identity.role} sees every row and may execute the reactor's functions")

    @staticmethod
    def _grant_fix(role: str) -> str:
        return (
            "connect as reactor_worker; or restore the missing privilege as the tables' owner: `grant usage on schema "
            f"reactor`, `grant execute on function …`, `grant select on …` to {role}, with its policy `using (true)`"
        )

    def _row_level_security(self) -> Iterator[Finding]:
        migrations_force = any("force" in step.file.name and not step.file.is_function for step in self._steps)
        unprotected = self._server.unprotected_tables()
        off = [name for name, is_enabled in unprotected if not is_enabled]
        unforced = [name for name, is_enabled in unprotected if is_enabled] if migrations_force else []
        if off:
            seen = f"off for {_first_names(off)}: users with table grants can read and write every user's rows"
            fix = f"as the tables' owner: `alter table {off[0]} enable row level security`, for each of them"
            yield problem("row level security", seen, fix)
        if unforced:
            seen = f"not forced for {_first_names(unforced)}: their owner can read and write every user's rows"
            fix = f"as the tables' owner: `alter table {unforced[0]} force row level security`, for each of them"
            yield problem("row level security", seen, fix)
        if not off and not unforced:
            yield ok("row level security", "on for all of the reactor's tables")

    def _refused_rows(self) -> Iterator[Finding]:
        """Check that no constraint or trigger of the app refuses what the reactor writes."""
        forbidden = self._server.forbidden_statuses()
        for sentence in forbidden:
            yield problem(
                "refused rows", sentence, "as the tables' owner: allow the value, or the reactor can't set it"
            )
        refused = self._server.refused_runs(self._heartbeat_timeout_s, _RUNS_TRIED)
        for run in refused[:_NAMES_SHOWN]:
            fix = "correct the row, or the constraint or trigger that the message names: the reactor tries it again"
            yield problem("refused rows", f"the database refuses to fail the stale run {run.id}: {run.reason}", fix)
        if not forbidden and not refused:
            yield ok("refused rows", "the database accepts the statuses that the reactor sets")

    def _listen(self) -> Iterator[Finding]:
        """Check that an idle listening connection receives a notification that another connection sends."""
        with closing(ServerProbe(self._listen_url)) as listener:
            identity = listener.identity()
            received = listener.receives_from(self._server, timeout_s=_NOTIFICATION_TIMEOUT_S)
        if not received:
            yield self._nothing_received(identity)
        elif identity.is_pooled:
            seen = f"notifications arrive at {listener.address}, through a pooler in session mode"
            cost = "each reactor occupies one of the pooler's connections, and reconnects when the pooler restarts"
            yield warning("listen", seen, f"{_DIRECT_FIX}: {cost}")
        else:
            yield ok("listen", f"notifications arrive at {listener.address}, on a direct connection")

    def _nothing_received(self, listener: ServerIdentity) -> Finding:
        mine = self._identity
        if listener.is_pooled:
            seen = f"{self._listen_setting} leads through a transaction pooler: LISTEN succeeds and nothing arrives"
            return problem("listen", seen, _DIRECT_FIX)
        if (listener.database, listener.started_at) != (mine.database, mine.started_at):
            other = f"another database ({listener.database}) or server than REACTOR_DATABASE_URL ({mine.database})"
            seen = f"{self._listen_setting} leads to {other}: nothing arrives"
            return problem("listen", seen, "set both to the same database of the same server")
        late = f"did not arrive within {_NOTIFICATION_TIMEOUT_S:g} s"
        seen = f"LISTEN succeeds, but a notification from another connection {late}"
        fix = f"bypass the proxy or load balancer between the reactor and the server: {_DIRECT_FIX}"
        return problem("listen", seen, fix)

    def _queue(self) -> Iterator[Finding]:
        usage = self._server.queue_usage()
        seen = f"{usage:.1%} full"
        fix = (
            "end the listener that does not read: `select pg_terminate_backend(pid)` for each row of `select pid, "
            "application_name from pg_stat_activity where wait_event = 'ClientWrite' or state like 'idle in %'`"
        )
        if usage >= _QUEUE_PROBLEM:
            yield problem("notification queue", f"{seen}: the triggers do not notify, only sweeps find work", fix)
        elif usage >= _QUEUE_WARNING:
            yield warning("notification queue", f"{seen}: a session listens but does not read", fix)
        else:
            yield ok("notification queue", seen)

    def _clock(self) -> Iterator[Finding]:
        ahead_s, uncertainty_s = self._server.clock_ahead_s()
        direction = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the database's clock is {abs(ahead_s):.3f} s {direction} this host's (± {uncertainty_s:.3f} s)"
        if abs(ahead_s) - uncertainty_s > _CLOCK_SKEW_S:
            seen = f"{seen}: retries and deadlines follow the database's clock, but log times will differ from it"
            fix = "synchronise both by NTP: `timedatectl set-ntp true`, or chrony; `timedatectl` shows which is wrong"
            yield problem("clock", seen, fix)
        else:
            yield ok("clock", seen)


def _first_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
