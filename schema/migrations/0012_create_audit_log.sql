-- Who did what by hand on the operator page, and when: one row a batch, written in the same transaction as what was done.
-- Nobody but the table's owner changes or removes a row; it is kept until they do.
--
-- Locks: none on tables that are in use.

create table reactor.audit_log (
    id uuid primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null constraint actor_is_named check (char_length(actor) between 1 and 80),
    remote_address text not null constraint remote_address_is_short check (char_length(remote_address) <= 100),
    action text not null
        constraint action_is_known check (action in ('retry', 'cancel', 'purge', 'fail', 'reconcile')),
    ids uuid[] not null,
    filter jsonb,
    changed int not null constraint changed_is_not_negative check (changed >= 0),
    outcome jsonb not null
);
comment on table reactor.audit_log is 'What operators did by hand; written by reactor.operate() alone.';
comment on column reactor.audit_log.actor is 'the name that was given at log-in: the token proves a right, not a name';
comment on column reactor.audit_log.ids is 'the rows that were asked for; they may be gone since';
comment on column reactor.audit_log.filter is 'what chose the rows, where a filter did; null where they were named';
comment on column reactor.audit_log.outcome is 'ids that changed, and the code of each that had to stay as it was';

create index audit_log_newest on reactor.audit_log (at desc, id desc);

alter table reactor.audit_log enable row level security;
create policy reactor_worker_reads on reactor.audit_log for select to reactor_worker, service_role using (true);
grant select on reactor.audit_log to reactor_worker, service_role;

do $$
declare
    v_owner name;
begin
    select r.rolname into v_owner
      from pg_class as c join pg_roles as r on r.oid = c.relowner where c.oid = 'reactor.audit_log'::regclass;
    execute format('create policy reactor_table_owner_does_all on reactor.audit_log to %I using (true) with check (true)',
                   v_owner);
    alter table reactor.audit_log force row level security;
end $$;
