"""The database: can it be reached, is it migrated, may the reactor do its work there, does it hear and keep time."""

import secrets
from collections.abc import Iterator, Sequence

from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import Settings
from reactor.doctor.finding import Check, Finding, Group, ok, problem, warning
from reactor.postgres.migrate import OLDEST_SERVER, Step, plan
from reactor.postgres.server_info import Identity, Server

_HEARD_WITHIN_S = 2.0
"""A reactor gives its own presence 1 s."""

_SKEW_S = 5.0
_QUEUE_UNUSUAL = 0.05
_QUEUE_SILENT = 0.5
"""From here on the triggers say nothing, see schema/functions/lib_send_hints.sql."""

_DIRECT = "set REACTOR_LISTEN_URL to a direct connection (on Supabase: port 5432, not 6543)"
_NAMES_SHOWN = 3


class DatabaseChecks:
    """Examines the database that the settings name, through one connection and a second one that listens."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url or ""
        self._listen_url = settings.listen_url or self._url
        self._listen_setting = "REACTOR_LISTEN_URL" if settings.listen_url else "REACTOR_DATABASE_URL"
        self._server: Server | None = None
        self._identity: Identity | None = None
        self._steps: Sequence[Step] = ()

    def group(self) -> Group:
        reach = "check host, port, user and password in REACTOR_DATABASE_URL, and that the server runs"
        asked = "look at the server's log and load; the question itself takes milliseconds"
        return Group(
            checks=[
                Check(name="database", examine=self._connect, fix=reach),
                Check(name="server version", examine=self._version, fix=asked, needs=["database"]),
                Check(name="primary", examine=self._primary, fix=asked, needs=["database"]),
                Check(
                    name="migrations",
                    examine=self._migrations,
                    fix="run `reactor migrate` as the tables' owner; connect the reactor as reactor_worker",
                    needs=["database", "server version"],
                ),
                Check(name="role", examine=self._role, fix=self._grant("…"), needs=["database", "migrations"]),
                Check(
                    name="row level security", examine=self._row_security, fix=asked, needs=["database", "migrations"]
                ),
                Check(
                    name="listen",
                    examine=self._listen,
                    fix=f"check {self._listen_setting}; it needs a direct connection to the same database",
                    needs=["database", "primary"],
                ),
                Check(name="notification queue", examine=self._queue, fix=asked, needs=["database"]),
                Check(name="clock", examine=self._clock, fix=asked, needs=["database"]),
            ],
            close=self._close,
        )

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _asked(self) -> tuple[Server, Identity]:
        if self._server is None or self._identity is None:
            raise DatabaseUnavailable("the connection is gone")
        return self._server, self._identity

    # one method for each check

    def _connect(self) -> Iterator[Finding]:
        server = self._server = Server(self._url)
        identity = self._identity = server.identity()
        through = ", through a pooler" if identity.is_pooled else ""
        yield ok("database", f"connected to {server.address}/{identity.database} as {identity.role}{through}")

    def _version(self) -> Iterator[Finding]:
        server, _ = self._asked()
        major, minor = divmod(server.version_number, 10_000)
        if server.version_number < OLDEST_SERVER:
            yield problem(
                "server version",
                f"PostgreSQL {major}.{minor} is too old",
                f"move the database to PostgreSQL {OLDEST_SERVER // 10_000} or newer",
            )
        else:
            yield ok("server version", f"PostgreSQL {major}.{minor}")

    def _primary(self) -> Iterator[Finding]:
        if self._asked()[1].is_standby:
            yield problem(
                "primary",
                "the server is a standby: it can neither write nor notify",
                "point REACTOR_DATABASE_URL at the primary; with several hosts, add target_session_attrs=read-write",
            )
        else:
            yield ok("primary", "the server takes writes")

    def _migrations(self) -> Iterator[Finding]:
        self._steps = steps = plan(self._url)
        edited = [s.file.name for s in steps if s.state == "changed" and not s.file.is_function]
        if edited:
            yield problem(
                "migrations",
                f"{_some(edited)} edited after being applied",
                "restore schema/migrations as it was released, and put the change into a new file",
            )
        if pending := [s.file.name for s in steps if s.state != "applied" and s.file.name not in edited]:
            yield problem(
                "migrations",
                f"{len(pending)} of {len(steps)} schema files aren't applied: {_some(pending)}",
                "run `reactor migrate` as the tables' owner",
            )
        if not edited and not pending:
            yield ok("migrations", f"all {len(steps)} schema files are applied, none was edited")

    def _role(self) -> Iterator[Finding]:
        server, identity = self._asked()
        if missing := server.missing():
            yield problem("role", "; ".join(missing), self._grant(identity.role))
        elif identity.is_superuser or identity.bypasses_rls:
            power = "a superuser" if identity.is_superuser else "free of row level security"
            yield warning(
                "role",
                f"{identity.role} is {power}: far more than the reactor needs",
                "connect as reactor_worker: `alter role reactor_worker password …`, then REACTOR_DATABASE_URL",
            )
        else:
            yield ok("role", f"{identity.role} sees every row and may execute the reactor's functions")

    @staticmethod
    def _grant(role: str) -> str:
        return (
            "connect as reactor_worker; or, as the tables' owner, give back what is named: `grant usage on schema "
            f"reactor`, `grant execute on function …`, `grant select on …` to {role}, with its policy `using (true)`"
        )

    def _row_security(self) -> Iterator[Finding]:
        server, _ = self._asked()
        is_forced_by_us = any("force" in step.file.name and not step.file.is_function for step in self._steps)
        unguarded = server.unguarded()
        off = [table.name for table in unguarded if not table.is_enabled]
        unforced = [table.name for table in unguarded if table.is_enabled] if is_forced_by_us else []
        if off:
            yield problem(
                "row level security",
                f"off for {_some(off)}: every user reads and writes every row that their grants reach",
                f"as the tables' owner: `alter table {off[0]} enable row level security`, for each of them",
            )
        if unforced:
            yield problem(
                "row level security",
                f"not forced for {_some(unforced)}: their owner sees and changes every tenant's rows",
                f"as the tables' owner: `alter table {unforced[0]} force row level security`, for each of them",
            )
        if not off and not unforced:
            yield ok("row level security", "on for every table of ours")

    def _listen(self) -> Iterator[Finding]:
        """Prove LISTEN as the reactor needs it: what another connection commits is heard by one that is idle."""
        server, identity = self._asked()
        channel = f"reactor_doctor_{secrets.token_hex(8)}"
        ear = Server(self._listen_url)
        try:
            listener = ear.identity()
            ear.listen(channel)
            server.notify(channel)
            heard = ear.hears(channel, within_s=_HEARD_WITHIN_S)
            ear.unlisten(channel)
        finally:
            ear.close()
        if not heard:
            yield self._deaf(identity, listener)
        elif listener.is_pooled:
            yield warning(
                "listen",
                f"notifications arrive at {ear.address}, through a pooler in session mode",
                f"{_DIRECT}: each reactor holds one of the pooler's connections for good, and dies with its restarts",
            )
        else:
            yield ok("listen", f"notifications arrive at {ear.address}, on a direct connection")

    def _deaf(self, sender: Identity, listener: Identity) -> Finding:
        if listener.is_pooled:
            return problem(
                "listen",
                f"{self._listen_setting} leads through a transaction pooler: LISTEN succeeds and nothing arrives",
                _DIRECT,
            )
        if not sender.is_same_database(listener):
            return problem(
                "listen",
                f"{self._listen_setting} leads to another database ({listener.database}) or server than "
                f"REACTOR_DATABASE_URL ({sender.database}): nothing arrives",
                "let both name the same database of the same server",
            )
        return problem(
            "listen",
            f"LISTEN succeeds, and what another connection notified didn't arrive within {_HEARD_WITHIN_S:g} s",
            f"take what stands between the reactor and the server (proxy, load balancer) out of the way: {_DIRECT}",
        )

    def _queue(self) -> Iterator[Finding]:
        usage = self._asked()[0].queue_usage()
        seen = f"{usage:.1%} full"
        fix = (
            "end the listener that doesn't read: `select pg_terminate_backend(pid)` for what `select pid, "
            "application_name from pg_stat_activity where wait_event = 'ClientWrite' or state like 'idle in %'` shows"
        )
        if usage >= _QUEUE_SILENT:
            yield problem("notification queue", f"{seen}: the triggers say nothing, work is found by searching", fix)
        elif usage >= _QUEUE_UNUSUAL:
            yield warning("notification queue", f"{seen}: somebody listens and doesn't read", fix)
        else:
            yield ok("notification queue", seen)

    def _clock(self) -> Iterator[Finding]:
        ahead_s, uncertainty_s = self._asked()[0].clock_ahead_s()
        where = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the database's clock is {abs(ahead_s):.3f} s {where} this host's (± {uncertainty_s:.3f} s)"
        if abs(ahead_s) - uncertainty_s > _SKEW_S:
            yield problem(
                "clock",
                f"{seen}: retries and deadlines follow the database's, but logs and traces will disagree with it",
                "set both by NTP: `timedatectl set-ntp true`, or chrony; `timedatectl` says which one is off",
            )
        else:
            yield ok("clock", seen)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
