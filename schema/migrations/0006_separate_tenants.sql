-- Row level security: users read their own rows and write nothing directly, the service reads and writes all, the
-- reactor reads what it works on and writes through functions. Policies of an app's own tables stay beside these.
--
-- Locks: ACCESS EXCLUSIVE for the moment of each statement; nothing is scanned.

do $$
declare
    v_table text;
begin
    foreach v_table in array array['sources', 'interpretation_runs', 'upload_queue', 'storage_usage'] loop
        execute format('alter table public.%I enable row level security', v_table);
        if not exists (select from pg_policies where schemaname = 'public' and tablename = v_table
                       and policyname = 'reactor_owner_reads') then
            -- (select auth.uid()) is evaluated once for a statement, a bare auth.uid() once for a row
            execute format('create policy reactor_owner_reads on public.%I for select to authenticated '
                           'using (user_id = (select auth.uid()))', v_table);
            execute format('create policy reactor_service_does_all on public.%I to service_role '
                           'using (true) with check (true)', v_table);
            execute format('create policy reactor_worker_reads on public.%I for select to reactor_worker '
                           'using (true)', v_table);
        end if;
        execute format('grant select on public.%I to authenticated, reactor_worker', v_table);
        execute format('grant all on public.%I to service_role', v_table);
    end loop;
    -- Managed platforms grant every new table to everybody; these three are ours, so we may take it back.
    foreach v_table in array array['upload_queue', 'storage_usage', 'quota_plans'] loop
        execute format('revoke all on public.%I from public, anon, authenticated', v_table);
        execute format('grant select on public.%I to authenticated', v_table);
    end loop;
end $$;

alter table public.quota_plans enable row level security;
create policy reactor_everybody_reads on public.quota_plans for select
    to authenticated, service_role, reactor_worker using (true);
create policy reactor_service_does_all on public.quota_plans to service_role using (true) with check (true);
grant select on public.quota_plans to reactor_worker;
grant all on public.quota_plans to service_role;

create policy reactor_worker_reads on reactor.instance for select to reactor_worker using (true);
grant select on reactor.instance to reactor_worker;
alter table reactor.migration enable row level security;
create policy reactor_all_read on reactor.migration for select to reactor_worker, service_role using (true);
grant select on reactor.migration to reactor_worker, service_role;
