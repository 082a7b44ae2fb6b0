-- Return when the lease of an upload that is being stored ends. Without a lease, it ended before all time.
--
-- Inlined  so no search_path is pinned (schema/README.md, decision 8)
create or replace function reactor.lease_end(p_lease_expires_at timestamptz)
    returns timestamptz
    language sql
    immutable
as $$
    select coalesce(p_lease_expires_at, '-infinity'::timestamptz)
$$;

-- Return whether an upload is being stored under a lease that has ended: any reactor may take it over.
--
-- Inlined  like lease_end()
create or replace function reactor.lease_has_expired(p_status text, p_lease_expires_at timestamptz)
    returns boolean
    language sql
    stable
as $$
    select p_status = 'uploading' and reactor.lease_end(p_lease_expires_at) <= statement_timestamp()
$$;

revoke all on function reactor.lease_end(timestamptz) from public;
revoke all on function reactor.lease_has_expired(text, timestamptz) from public;
