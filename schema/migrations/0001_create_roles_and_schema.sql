-- The roles that row level security speaks of, the role that the reactor works as, and a schema for what only
-- the reactor needs. On Supabase the first three roles and auth.uid() exist and are left as they are.
--
-- Locks: none on tables.

do $$
declare
    v_role text;
begin
    foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin noinherit', v_role);
            exception when duplicate_object or unique_violation then
                null; -- another database of this cluster is being migrated at this moment
            end;
        end if;
    end loop;
    if not exists (select from pg_catalog.pg_roles where rolname = 'reactor_worker') then
        begin
            -- It may log in but has no password: an operator gives it one, or grants it to a login role.
            create role reactor_worker login noinherit nosuperuser nocreatedb nocreaterole;
            alter role reactor_worker set idle_in_transaction_session_timeout = '10s';
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
end $$;

create schema if not exists reactor;
comment on schema reactor is 'What only the reactor needs: its ledger, its instances, its functions.';
revoke all on schema reactor from public;
grant usage on schema reactor to reactor_worker, service_role;
grant usage on schema public to anon, authenticated, service_role, reactor_worker;

-- Plain PostgreSQL has no auth.uid(): the caller's user id, as PostgREST leaves it in the session.
do $$
begin
    if to_regprocedure('auth.uid()') is null then
        create schema if not exists auth;
        create function auth.uid() returns uuid language sql stable as $f$
            select nullif(coalesce(
                nullif(current_setting('request.jwt.claim.sub', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
            ), '')::uuid
        $f$;
        grant usage on schema auth to anon, authenticated, service_role, reactor_worker;
        grant execute on function auth.uid() to anon, authenticated, service_role, reactor_worker;
    end if;
end $$;

-- One row per living reactor: who else is there, and who has gone without a word.
create table reactor.instance (
    id uuid primary key,
    host text not null,
    version text not null,
    mode text not null constraint mode_is_known check (mode in ('starting', 'listening', 'polling')),
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
) with (fillfactor = 70);
comment on table reactor.instance is 'Living reactors; a row that is not seen for a while is a dead one.';
alter table reactor.instance enable row level security;
