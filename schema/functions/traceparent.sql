-- A W3C traceparent: p_given where it is a valid one, else a new trace of the row's own (sampled, random). A broken header
-- must not lose an upload. A new one's parent id is ROOT_SPAN_ID of reactor/core/trace_context.py: no app has a span there.
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
