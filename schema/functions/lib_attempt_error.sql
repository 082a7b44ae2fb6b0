-- Return a JSON array with one entry for upload_queue.errors: the error of one attempt.
--
-- p_began    when the attempt was claimed
-- p_attempt  the attempt's number
-- Inlined    into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.attempt_error(p_began timestamptz, p_attempt int, p_code text, p_message text,
        p_traceparent text)
    returns jsonb
    language sql
    volatile
as $$
    select jsonb_build_array(jsonb_build_object(
        'at', clock_timestamp(), 'began', p_began, 'attempt', p_attempt, 'code', p_code, 'message', p_message,
        'trace_id', split_part(p_traceparent, '-', 2)))
$$;

-- Return the entry for a lost attempt: its lease expired before a reactor settled it.
--
-- Inlined    like attempt_error()
create or replace function reactor.lost_attempt_error(p_began timestamptz, p_attempt int, p_traceparent text)
    returns jsonb
    language sql
    volatile
as $$
    select reactor.attempt_error(p_began, p_attempt, 'STORAGE_UNAVAILABLE', 'the worker stopped without settling',
                                 p_traceparent)
$$;

revoke all on function reactor.attempt_error(timestamptz, int, text, text, text) from public;
revoke all on function reactor.lost_attempt_error(timestamptz, int, text) from public;
