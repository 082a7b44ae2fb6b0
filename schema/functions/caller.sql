-- Who calls: null for a service, which may act for any user; else the user of the caller's JWT. A user's role without a
-- valid JWT is the nil UUID, which owns nothing.
--
-- A service is service_role, or a direct connection without a JWT's claims in a role that isn't a user's. Everybody else
-- comes through a gateway such as PostgREST, which sets both the role and the claims.
-- current_user can't tell: within a function that runs as its owner it is the owner.
--
-- No pinned search_path: only so is it inlined, instead of being called. It calls nothing but built-in functions, and its
-- callers pin theirs.
create or replace function reactor.caller()
    returns uuid
    language sql
    stable
as $$
    select case
        when coalesce(nullif(current_setting('role', true), 'none'), session_user) = 'service_role'
             or coalesce(nullif(current_setting('role', true), 'none'), session_user) not in ('anon', 'authenticated')
                and coalesce(current_setting('request.jwt.claims', true), '') = ''
                and coalesce(current_setting('request.jwt.claim.sub', true), '') = '' then null
        else reactor.jwt_user()
    end
$$;

-- The user of the JWT; the nil UUID where there is no valid one.
create or replace function reactor.jwt_user()
    returns uuid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(auth.uid(), uuid '00000000-0000-0000-0000-000000000000');
exception when data_exception then
    return '00000000-0000-0000-0000-000000000000'; -- a subject that is no UUID, or claims that are no JSON
end $$;

-- Whether a caller may act for a user: nobody may for no one, and for the nil UUID only services, even if an app has rows
-- with it. Inlined, as above.
create or replace function reactor.acts_for(p_caller uuid, p_user_id uuid)
    returns boolean
    language sql
    immutable
as $$
    select p_caller is null
           or coalesce(p_caller = p_user_id, false) and p_caller <> '00000000-0000-0000-0000-000000000000'
$$;

revoke all on function reactor.acts_for(uuid, uuid) from public;
revoke all on function reactor.caller() from public;
revoke all on function reactor.jwt_user() from public;
