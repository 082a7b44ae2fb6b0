-- Return the calling user's id; null for a service, which may act for any user.
--
-- Returns  null for service_role. If no JWT claims are set, null for every role except anon and authenticated.
--          Otherwise the user of the JWT, or the nil UUID, which owns nothing, if there is no valid JWT
-- Note     doesn't use current_user: in a security definer function, current_user is the function's owner
-- Inlined  into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
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

-- Return the user of the JWT; the nil UUID if there is no valid JWT.
create or replace function reactor.jwt_user()
    returns uuid
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(auth.uid(), uuid '00000000-0000-0000-0000-000000000000');
exception when data_exception then
    return '00000000-0000-0000-0000-000000000000'; -- the subject is no UUID, or the claims are no JSON
end $$;

-- Return whether a caller may act for a user. A user may act only as themselves, and never as the nil UUID, even if an
-- app has rows with it.
--
-- Inlined  like caller()
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
