"""Checks of the database: connection, version, migrations, privileges, row level security, LISTEN, clock."""

import secrets
from collections.abc import Iterator, Sequence

from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import Settings
from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem, warning
from reactor.postgres.migrate import OLDEST_SERVER, Step, plan
from reactor.postgres.server_info import ServerIdentity, ServerProbe

_NOTIFICATION_TIMEOUT_S = 2.0
"""Longer than the 1 s that a reactor allows its canary."""

_CLOCK_SKEW_S = 5.0
_QUEUE_WARNING = 0.05
_QUEUE_PROBLEM = 0.5
"""From this usage on the triggers do not notify, see schema/functions/lib_send_hints.sql."""

_DIRECT_FIX = "set REACTOR_LISTEN_URL to a direct connection (on Supabase: port 5432, not 6543)"
_NAMES_SHOWN = 3


class DatabaseChecks:
    """Checks of the configured database, on one connection and a second one that listens."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url or ""
        self._listen_url = settings.listen_url or self._url
        self._listen_setting = "REACTOR_LISTEN_URL" if settings.listen_url else "REACTOR_DATABASE_URL"
        self._server: ServerProbe | None = None
        self._identity: ServerIdentity | None = None
        self._steps: Sequence[Step] = ()

    def group(self) -> CheckGroup:
        """Return the checks, in order."""
        connect_fix = "check host, port, user and password in REACTOR_DATABASE_URL, and that the server is running"
        slow_fix = "check the server's log and load; the check itself takes milliseconds"
        return CheckGroup(
            checks=[
                Check(name="database", examine=self._connect, fix=connect_fix),
                Check(name="server version", examine=self._version, fix=slow_fix, needs=["database"]),
                Check(name="primary", examine=self._primary, fix=slow_fix, needs=["database"]),
                Check(
                    name="migrations",
                    examine=self._migrations,
                    fix="run `reactor migrate` as the tables' owner; connect the reactor as reactor_worker",
                    needs=["database", "server version"],
                ),
                Check(name="role", examine=self._role, fix=self._grant_fix("…"), needs=["database", "migrations"]),
                Check(
                    name="row level security",
                    examine=self._row_level_security,
                    fix=slow_fix,
                    needs=["database", "migrations"],
                ),
                Check(
                    name="listen",
                    examine=self._listen,
                    fix=f"check {self._listen_setting}; it needs a direct connection to the same database",
                    needs=["database", "primary"],
                ),
                Check(name="notification queue", examine=self._queue, fix=slow_fix, needs=["database"]),
                Check(name="clock", examine=self._clock, fix=slow_fix, needs=["database"]),
            ],
            close=self._close,
        )

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _connected(self) -> tuple[ServerProbe, ServerIdentity]:
        if self._server is None or self._identity is None:
            raise DatabaseUnavailable("the connection is closed")
        return self._server, self._identity

    # one method per check

    def _connect(self) -> Iterator[Finding]:
        server = self._server = ServerProbe(self._url)
        identity = self._identity = server.identity()
        suffix = ", through a pooler" if identity.is_pooled else ""
        yield ok("database", f"connected to {server.address}/{identity.database} as {identity.role}{suffix}")

    def _version(self) -> Iterator[Finding]:
        server, _ = self._connected()
        major, minor = divmod(server.version_number, 10_000)
        if server.version_number < OLDEST_SERVER:
            yield problem(
                "server version",
                f"PostgreSQL {major}.{minor} is too old",
                f"upgrade to PostgreSQL {OLDEST_SERVER // 10_000} or newer",
            )
        else:
            yield ok("server version", f"PostgreSQL {major}.{minor}")

    def _primary(self) -> Iterator[Finding]:
        if self._connected()[1].is_standby:
            yield problem(
                "primary",
                "the server is a standby: it can neither write nor notify",
                "point REACTOR_DATABASE_URL at the primary; with several hosts, add target_session_attrs=read-write",
            )
        else:
            yield ok("primary", "the server accepts writes")

    def _migrations(self) -> Iterator[Finding]:
        self._steps = steps = plan(self._url)
        edited = [s.file.name for s in steps if s.state == "changed" and not s.file.is_function]
        if edited:
            yield problem(
                "migrations",
                f"{_first_names(edited)} edited after being applied",
                "restore schema/migrations as it was released, and put the change into a new file",
            )
        if pending := [s.file.name for s in steps if s.state != "applied" and s.file.name not in edited]:
            yield problem(
                "migrations",
                f"{len(pending)} of {len(steps)} schema files are not applied: {_first_names(pending)}",
                "run `reactor migrate` as the tables' owner",
            )
        if not edited and not pending:
            yield ok("migrations", f"all {len(steps)} schema files are applied, none was edited")

    def _role(self) -> Iterator[Finding]:
        server, identity = self._connected()
        if missing := server.missing_privileges():
            yield problem("role", "; ".join(missing), self._grant_fix(identity.role))
        elif identity.is_superuser or identity.bypasses_rls:
            privilege = "is a superuser" if identity.is_superuser else "bypasses row level security"
            yield warning(
                "role",
                f"{identity.role} {privilege}: the reactor needs far less",
                "connect as reactor_worker: `alter role reactor_worker password …`, then set REACTOR_DATABASE_URL",
            )
        else:
            yield ok("role", f"{identity.role} sees every row and may execute the reactor's functions")

    @staticmethod
    def _grant_fix(role: str) -> str:
        return (
            "connect as reactor_worker; or restore the missing privilege as the tables' owner: `grant usage on schema "
            f"reactor`, `grant execute on function …`, `grant select on …` to {role}, with its policy `using (true)`"
        )

    def _row_level_security(self) -> Iterator[Finding]:
        server, _ = self._connected()
        migrations_force = any("force" in step.file.name and not step.file.is_function for step in self._steps)
        unprotected = server.unprotected_tables()
        off = [table.name for table in unprotected if not table.is_enabled]
        unforced = [table.name for table in unprotected if table.is_enabled] if migrations_force else []
        if off:
            yield problem(
                "row level security",
                f"off for {_first_names(off)}: users with table grants can read and write every user's rows",
                f"as the tables' owner: `alter table {off[0]} enable row level security`, for each of them",
            )
        if unforced:
            yield problem(
                "row level security",
                f"not forced for {_first_names(unforced)}: their owner can read and write every user's rows",
                f"as the tables' owner: `alter table {unforced[0]} force row level security`, for each of them",
            )
        if not off and not unforced:
            yield ok("row level security", "on for all of the reactor's tables")

    def _listen(self) -> Iterator[Finding]:
        """Check that an idle listening connection receives what another connection notifies."""
        server, identity = self._connected()
        channel = f"reactor_doctor_{secrets.token_hex(8)}"
        listener = ServerProbe(self._listen_url)
        try:
            listener_identity = listener.identity()
            listener.listen(channel)
            server.notify(channel)
            received = listener.receives(channel, timeout_s=_NOTIFICATION_TIMEOUT_S)
            listener.unlisten(channel)
        finally:
            listener.close()
        if not received:
            yield self._nothing_received(identity, listener_identity)
        elif listener_identity.is_pooled:
            yield warning(
                "listen",
                f"notifications arrive at {listener.address}, through a pooler in session mode",
                f"{_DIRECT_FIX}: each reactor occupies one of the pooler's connections, and reconnects when the pooler "
                "restarts",
            )
        else:
            yield ok("listen", f"notifications arrive at {listener.address}, on a direct connection")

    def _nothing_received(self, sender: ServerIdentity, listener: ServerIdentity) -> Finding:
        if listener.is_pooled:
            return problem(
                "listen",
                f"{self._listen_setting} leads through a transaction pooler: LISTEN succeeds and nothing arrives",
                _DIRECT_FIX,
            )
        if not sender.is_same_database(listener):
            return problem(
                "listen",
                f"{self._listen_setting} leads to another database ({listener.database}) or server than "
                f"REACTOR_DATABASE_URL ({sender.database}): nothing arrives",
                "set both to the same database of the same server",
            )
        return problem(
            "listen",
            "LISTEN succeeds, but a notification from another connection did not arrive within "
            f"{_NOTIFICATION_TIMEOUT_S:g} s",
            f"bypass the proxy or load balancer between the reactor and the server: {_DIRECT_FIX}",
        )

    def _queue(self) -> Iterator[Finding]:
        usage = self._connected()[0].queue_usage()
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
        ahead_s, uncertainty_s = self._connected()[0].clock_ahead_s()
        direction = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the database's clock is {abs(ahead_s):.3f} s {direction} this host's (± {uncertainty_s:.3f} s)"
        if abs(ahead_s) - uncertainty_s > _CLOCK_SKEW_S:
            yield problem(
                "clock",
                f"{seen}: retries and deadlines follow the database's clock, but log times will differ from it",
                "synchronise both by NTP: `timedatectl set-ntp true`, or chrony; `timedatectl` shows which is wrong",
            )
        else:
            yield ok("clock", seen)


def _first_names(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
