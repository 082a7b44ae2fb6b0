-- Return when the lease of a claimed upload ends. A lease without lease_expires_at counts as expired: '-infinity'.
--
-- Inlined  into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.lease_end(p_lease_expires_at timestamptz)
    returns timestamptz
    language sql
    immutable
as $$
    select coalesce(p_lease_expires_at, '-infinity'::timestamptz)
$$;

-- Return whether an upload is claimed and its lease has expired: any reactor may take the upload over.
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
