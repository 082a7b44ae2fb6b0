-- Return when a waiting upload is due: next_retry_at, or the start of 1970 if that is later, so that its age is finite.
--
-- Note     the index upload_queue_by_due has the same expression
-- Inlined  into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.due_at(p_next_retry_at timestamptz)
    returns timestamptz
    language sql
    immutable
as $$
    select greatest(p_next_retry_at, 'epoch'::timestamptz)
$$;

-- Return whether an upload waits and is due now.
--
-- Inlined  like due_at()
create or replace function reactor.is_due(p_status text, p_next_retry_at timestamptz)
    returns boolean
    language sql
    stable
as $$
    select p_status = 'failed' and reactor.due_at(p_next_retry_at) <= statement_timestamp()
$$;

revoke all on function reactor.due_at(timestamptz) from public;
revoke all on function reactor.is_due(text, timestamptz) from public;
