-- What one source counts for in its user's books: one row. A table that an app made may say file_size for byte_size.
--
-- No pinned search_path, and a set of one row: only so is it inlined into the statements that use it, instead of being
-- called for each row. It calls nothing but built-in functions, and its callers pin theirs.
create or replace function reactor.usage_of_source(p_source public.sources)
    returns table (user_id uuid, total bigint, reserved bigint, stored int)
    language sql
    stable
as $$
    select p_source.user_id,
           case when p_source.storage_status = 'uploaded' then size.bytes else 0 end,
           case when p_source.storage_status = 'pending' then size.bytes else 0 end,
           case when p_source.storage_status = 'uploaded' then 1 else 0 end
      from (select coalesce(p_source.byte_size, (to_jsonb(p_source) ->> 'file_size')::bigint, 0) as bytes) as size
$$;

revoke all on function reactor.usage_of_source(public.sources) from public;
