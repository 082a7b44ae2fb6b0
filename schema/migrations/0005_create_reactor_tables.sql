-- Create the reactor's own tables: live instances, the lock of repairs, quota rejections, deleted interpretations, the audit log.
--
-- Why    The reactor and its operators need these tables; apps don't. The ledger, reactor.migration, isn't among them:
--        `reactor migrate` creates it before it applies the first migration.
-- Locks  none on existing tables
-- Time   milliseconds

create table reactor.instance (
    id uuid primary key,
    host text not null,
    pid int,
    port int,
    version text not null,
    mode text not null
        constraint mode_is_known check (mode in ('starting', 'listening', 'polling')),
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
) with (fillfactor = 70);
comment on table reactor.instance is 'Live reactors. A row whose seen_at is old belongs to a dead reactor.';
comment on column reactor.instance.pid is 'the process on its host';
comment on column reactor.instance.port is 'the port of its page; null if it serves none';

-- The session that repairs usage locks this row. An advisory lock could be taken by any role that knows its number.
create table reactor.usage_repair (
    id int primary key default 1
        constraint only_one_row check (id = 1)
);
comment on table reactor.usage_repair is 'One row; the session that repairs usage locks it.';
insert into reactor.usage_repair default values;

-- The key contains the server process that refused, so no transaction waits for another one.
create table reactor.quota_rejection (
    minute timestamptz not null,
    quota text not null
        constraint quota_is_known check (quota in ('storage', 'interpretations')),
    plan text not null,
    backend int not null,
    count bigint not null
        constraint count_is_positive check (count > 0),
    primary key (minute, quota, plan, backend)
);
comment on table reactor.quota_rejection is
    'Quota refusals by minute, without user ids. Older than a week: one row per quota and plan, at -infinity.';
comment on column reactor.quota_rejection.backend is
    'the server process that counted the refusals; 0 for a sum over server processes';

-- Deleting runs only inserts rows here, so it waits for no other transaction. Reconciliation deletes the rows of past
-- months.
create table reactor.deleted_interpretation (
    user_id uuid not null,
    billing_month text not null,
    count int not null
        constraint count_is_positive check (count > 0)
);
comment on table reactor.deleted_interpretation is
    'Numbers of counted runs whose rows were deleted. A recount of usage includes them.';
create index deleted_interpretation_of_user on reactor.deleted_interpretation (user_id, billing_month);

-- The arguments of reactor.settle_uploads() for one attempt.
create type reactor.ended_attempt as (
    id uuid,
    token uuid,
    verdict text,
    delay_s float8,
    code text,
    message text,
    url text
);

create table reactor.audit_log (
    id uuid primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null
        constraint actor_is_named check (char_length(actor) between 1 and 80),
    remote_address text not null
        constraint remote_address_is_short check (char_length(remote_address) <= 100),
    action text not null
        constraint action_is_known check (action in ('retry', 'cancel', 'purge', 'fail', 'reconcile')),
    ids uuid[] not null,
    filter jsonb,
    changed int not null
        constraint changed_is_not_negative check (changed >= 0),
    outcome jsonb not null
);
comment on table reactor.audit_log is
    'Changes by operators, written only by reactor.operate() in the same transaction.';
comment on column reactor.audit_log.actor is 'the name that the operator or program gave; nothing verifies it';
comment on column reactor.audit_log.ids is 'the ids that were requested; their rows may have been deleted since';
comment on column reactor.audit_log.filter is 'the filter that selected the rows; null: the operator listed them';
comment on column reactor.audit_log.outcome is 'the ids that changed, and a code for each id that was refused';
create index audit_log_newest on reactor.audit_log (at desc, id desc);
