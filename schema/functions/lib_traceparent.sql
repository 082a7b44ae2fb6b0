-- Return a W3C traceparent: p_given if it is valid, otherwise a new one. A broken header must not lose an upload.
--
-- A new traceparent has a random trace id and the flags "sampled" and "random". Its parent id is "reactor" in ASCII and
-- a zero byte, which means that the app brought no trace; reactor/core/trace_context.py recognises it. The column
-- default of upload_queue.traceparent is the same.
create or replace function reactor.traceparent(p_given text)
    returns text
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select case when p_given ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then p_given
                else '00-' || replace(gen_random_uuid()::text, '-', '') || '-72656163746f7200-03' end
$$;

revoke all on function reactor.traceparent(text) from public;
