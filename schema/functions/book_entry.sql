-- What one source counts for in its user's books. A table that an app made may say file_size for byte_size.
create or replace function reactor.book_entry(p_source public.sources,
        out user_id uuid, out total bigint, out reserved bigint, out stored int)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select p_source.user_id,
           case when p_source.storage_status = 'uploaded' then size.bytes else 0 end,
           case when p_source.storage_status = 'pending' then size.bytes else 0 end,
           case when p_source.storage_status = 'uploaded' then 1 else 0 end
      from (select coalesce(p_source.byte_size, (to_jsonb(p_source) ->> 'file_size')::bigint, 0) as bytes) as size
$$;

revoke all on function reactor.book_entry(public.sources) from public;
