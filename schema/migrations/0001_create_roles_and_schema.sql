-- Create the roles that the policies name, the reactor's own role, and the schema `reactor`.
--
-- Why    The policies need the roles anon, authenticated and service_role, and the function auth.uid(). Supabase has
--        them already, so this file leaves them unchanged there. On plain PostgreSQL, it creates them.
-- Locks  none on tables
-- Time   milliseconds

do $$
declare
    v_role text;
begin
    foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin noinherit', v_role);
            exception when duplicate_object or unique_violation then
                null; -- a server's databases share its roles, and another database's migration just created this role
            end;
        end if;
    end loop;
    if not exists (select from pg_catalog.pg_roles where rolname = 'reactor_worker') then
        begin
            -- The role may log in but has no password: an operator sets one, or grants the role to a login role.
            create role reactor_worker login noinherit nosuperuser nocreatedb nocreaterole;
            alter role reactor_worker set idle_in_transaction_session_timeout = '10s';
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
end $$;

create schema if not exists reactor;
comment on schema reactor is 'What only the reactor needs: its ledger, its tables, its functions.';
revoke all on schema reactor from public;
grant usage on schema reactor to reactor_worker, service_role;
grant usage on schema public to anon, authenticated, service_role, reactor_worker;

-- Create auth.uid() if it is missing. It returns the id of the calling user, which PostgREST puts into the session's
-- settings.
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
