-- Enable row level security and grant rights.
--
-- Why    Users read their own rows and write nothing directly. The service reads and writes all rows. The reactor reads
--        the tables it works on and writes through functions. Row level security is forced: it also applies to the
--        tables' owner, who gets a policy too. An app's own policies are kept.
-- Locks  ACCESS EXCLUSIVE on each table until the end of the transaction
-- Time   milliseconds: no table is scanned

do $$
declare
    v_table regclass;
begin
    foreach v_table in array array['public.sources', 'public.interpretation_runs', 'public.upload_queue',
                                   'public.storage_usage']::regclass[] loop
        -- (select auth.uid()) is evaluated once per statement, a bare auth.uid() once per row
        execute format('create policy reactor_owner_reads on %s for select to authenticated '
                       'using (user_id = (select auth.uid()))', v_table);
        execute format('create policy reactor_service_does_all on %s to service_role '
                       'using (true) with check (true)', v_table);
        execute format('create policy reactor_worker_reads on %s for select to reactor_worker '
                       'using (true)', v_table);
    end loop;
end $$;

create policy reactor_everybody_reads on public.quota_plans for select
    to authenticated, service_role, reactor_worker
    using (true);
create policy reactor_service_does_all on public.quota_plans to service_role
    using (true) with check (true);

create policy reactor_worker_reads on reactor.instance for select to reactor_worker using (true);
create policy reactor_all_read on reactor.migration for select to reactor_worker, service_role using (true);
create policy reactor_worker_reads on reactor.quota_rejection for select to reactor_worker, service_role using (true);
create policy reactor_worker_reads on reactor.audit_log for select to reactor_worker, service_role using (true);

do $$
declare
    v_table regclass;
    v_owner name;
begin
    foreach v_table in array array['public.sources', 'public.interpretation_runs', 'public.upload_queue',
                                   'public.storage_usage', 'public.quota_plans', 'reactor.instance',
                                   'reactor.migration', 'reactor.usage_repair', 'reactor.quota_rejection',
                                   'reactor.deleted_interpretation', 'reactor.audit_log']::regclass[] loop
        select r.rolname into v_owner
          from pg_class as c
          join pg_roles as r on r.oid = c.relowner
         where c.oid = v_table;
        execute format('create policy reactor_table_owner_does_all on %s to %I using (true) with check (true)',
                       v_table, v_owner);
        execute format('alter table %s enable row level security', v_table);
        execute format('alter table %s force row level security', v_table);
    end loop;
    -- Managed platforms grant all rights on new tables to every role. Revoke these grants, because row level security
    -- doesn't stop TRUNCATE. If the app has policies on a table, keep the grants: the policies may let users write.
    foreach v_table in array array['public.sources', 'public.interpretation_runs', 'public.upload_queue',
                                   'public.storage_usage', 'public.quota_plans']::regclass[] loop
        if not exists (select from pg_policy where polrelid = v_table and polname !~ '^reactor_') then
            execute format('revoke all on %s from public, anon, authenticated', v_table);
        end if;
        execute format('grant select on %s to authenticated, reactor_worker', v_table);
        execute format('grant all on %s to service_role', v_table);
    end loop;
end $$;

grant select on reactor.instance to reactor_worker;
grant select on reactor.migration, reactor.quota_rejection, reactor.audit_log to reactor_worker, service_role;
