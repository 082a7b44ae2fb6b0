-- Row level security binds the tables' owner as well: whoever is meant to see all rows has a policy that says so, which
-- shows in the catalogue. Quota rejections are counted in a table of their own; runs and sources get the columns that the
-- books are recounted from.
--
-- Locks: ACCESS EXCLUSIVE for the moment of each statement; nothing is scanned or rewritten.

-- Rejections by minute. No user is named. The server process that refused is part of the key, so that none ever waits
-- for another's transaction to count its own; reconciliation adds them up.
create table reactor.quota_rejection (
    minute timestamptz not null,
    quota text not null constraint quota_is_known check (quota in ('storage', 'interpretations')),
    plan text not null,
    backend int not null,
    count bigint not null constraint count_is_positive check (count > 0),
    primary key (minute, quota, plan, backend)
);
comment on table reactor.quota_rejection is 'What the quotas refused, by minute; what is old is added up at -infinity.';
comment on column reactor.quota_rejection.backend is 'server process that counted; 0 once added up';

-- Made again by functions/ with other answers.
drop function if exists reactor.recount_usage(uuid, int);
drop function if exists reactor.requeue_uploads(uuid[]);

alter table public.sources add column if not exists pending_since timestamptz not null default now();
comment on column public.sources.pending_since is 'when the source became owed to the store, the last time';

-- A source that reserve_upload makes says its size and name in byte_size and file_name.
do $$
declare
    v_column text;
begin
    for v_column in
        select a.attname from pg_attribute as a
         where a.attrelid = 'public.sources'::regclass and a.attname in ('file_size', 'original_filename')
           and a.attnotnull and not a.atthasdef
    loop
        execute format('alter table public.sources alter column %I drop not null', v_column);
    end loop;
end $$;

alter table public.interpretation_runs add column if not exists billing_month text;
comment on column public.interpretation_runs.billing_month is
    'the month (UTC) in which its start was counted; null: it never started. Kept by a trigger';

comment on column public.storage_usage.interpretation_count_month is
    'runs started in billing_month, those included whose rows are gone';

-- Runs that were counted this month and whose rows are gone: they were interpreted all the same. Only ever added to, so
-- that a deletion waits for nobody; reconciliation forgets the months that are over.
create table reactor.deleted_interpretation (
    user_id uuid not null,
    billing_month text not null,
    count int not null constraint count_is_positive check (count > 0)
);
comment on table reactor.deleted_interpretation is 'Counted runs whose rows are gone, for a recount of the books.';
create index deleted_interpretation_of_user on reactor.deleted_interpretation (user_id, billing_month);

alter table reactor.deleted_interpretation enable row level security;
alter table reactor.quota_rejection enable row level security;
create policy reactor_worker_reads on reactor.quota_rejection for select to reactor_worker, service_role using (true);
grant select on reactor.quota_rejection to reactor_worker, service_role;

do $$
declare
    v_table regclass;
    v_owner name;
begin
    foreach v_table in array array['public.sources', 'public.interpretation_runs', 'public.upload_queue',
                                   'public.storage_usage', 'public.quota_plans', 'reactor.instance',
                                   'reactor.migration', 'reactor.quota_rejection',
                                   'reactor.deleted_interpretation']::regclass[] loop
        select r.rolname into v_owner
          from pg_class as c join pg_roles as r on r.oid = c.relowner where c.oid = v_table;
        execute format('create policy reactor_table_owner_does_all on %s to %I using (true) with check (true)',
                       v_table, v_owner);
        execute format('alter table %s force row level security', v_table);
    end loop;
    -- Managed platforms grant every new table to everybody. Where no policy of an app's own lets users write, row level
    -- security let nothing through: take back what it doesn't govern, such as TRUNCATE.
    foreach v_table in array array['public.sources', 'public.interpretation_runs']::regclass[] loop
        if not exists (select from pg_policy where polrelid = v_table and polname !~ '^reactor_') then
            execute format('revoke all on %s from public, anon, authenticated', v_table);
            execute format('grant select on %s to authenticated', v_table);
        end if;
    end loop;
end $$;
