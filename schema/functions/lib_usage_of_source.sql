-- Return the bytes of one source. A table that an app made may have file_size instead of byte_size.
--
-- Returns  null if neither is set
-- Inlined  into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.size_of_source(p_source public.sources)
    returns bigint
    language sql
    stable
as $$
    select coalesce(p_source.byte_size, (to_jsonb(p_source) ->> 'file_size')::bigint)
$$;

-- Return what one source adds to its user's usage: one row.
--
-- Inlined  into the calling query, because it returns a set and pins no search_path
create or replace function reactor.usage_of_source(p_source public.sources)
    returns table (user_id uuid, total bigint, reserved bigint, stored int)
    language sql
    stable
as $$
    select p_source.user_id,
           case when p_source.storage_status = 'uploaded' then size.bytes else 0 end,
           case when p_source.storage_status = 'pending' then size.bytes else 0 end,
           case when p_source.storage_status = 'uploaded' then 1 else 0 end
      from (select coalesce(reactor.size_of_source(p_source), 0) as bytes) as size
$$;

revoke all on function reactor.size_of_source(public.sources) from public;
revoke all on function reactor.usage_of_source(public.sources) from public;
