-- Recount the usage of up to p_limit users from the rows of sources and interpretation_runs.
--
-- p_after  last_user of the previous call; null: start with the first user. Users are recounted in order of id
-- Returns  the last user recounted, and the number of users whose figures were wrong; no row when no users are left
-- Locks    the usage rows, in order of user_id
create or replace function reactor.recount_users(p_after uuid, p_limit int)
    returns table (last_user uuid, changed bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_users uuid[];
begin
    -- include users with a usage row and no sources, because their usage row may be wrong
    v_users := array(
        (select distinct s.user_id
           from public.sources as s
          where s.user_id is not null
            and (p_after is null or s.user_id > p_after)
          order by s.user_id
          limit p_limit)
        union
        (select u.user_id
           from public.storage_usage as u
          where p_after is null or u.user_id > p_after
          order by u.user_id
          limit p_limit)
        order by user_id
        limit p_limit);
    perform reactor.ensure_usage_rows(v_users);
    return query
    select (array_agg(done.user_id order by done.user_id desc))[1], count(*) filter (where done.changed)
      from (select u.user_id, reactor.recount_user(u.user_id) as changed
              from (select unnest(v_users) as user_id order by 1) as u) as done
    having count(*) > 0;
end $$;

-- Recount one user's usage. The user must have a usage row.
--
-- Returns  whether the figures were wrong
-- Locks    the usage row, before it counts. Writers take the same lock before they commit, so nothing is counted twice
--          or missed
create or replace function reactor.recount_user(p_user_id uuid)
    returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_month constant text := to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM');
    v_before record;
    v_after record;
begin
    select u.total_bytes, u.reserved_bytes, u.total_sources, u.billing_month, u.interpretation_count_month
      into strict v_before
      from public.storage_usage as u
     where u.user_id = p_user_id
       for no key update;
    update public.storage_usage as u
       set total_bytes = counted.total,
           reserved_bytes = counted.reserved,
           total_sources = counted.stored,
           billing_month = v_month,
           interpretation_count_month =
               (select count(*) from public.interpretation_runs as r
                 where r.user_id = p_user_id and r.billing_month = v_month)
               + (select coalesce(sum(d.count), 0) from reactor.deleted_interpretation as d
                   where d.user_id = p_user_id and d.billing_month = v_month),
           last_calculated = clock_timestamp()
      from (select coalesce(sum(f.total), 0) as total, coalesce(sum(f.reserved), 0) as reserved,
                   coalesce(sum(f.stored), 0) as stored
              from public.sources as s
             cross join lateral reactor.usage_of_source(s) as f
             where s.user_id = p_user_id) as counted
     where u.user_id = p_user_id
    returning u.total_bytes, u.reserved_bytes, u.total_sources, u.interpretation_count_month into strict v_after;
    return (v_before.total_bytes, v_before.reserved_bytes, v_before.total_sources,
            case when v_before.billing_month = v_month then v_before.interpretation_count_month else 0 end)
           is distinct from
           (v_after.total_bytes, v_after.reserved_bytes, v_after.total_sources, v_after.interpretation_count_month);
end $$;

revoke all on function reactor.recount_user(uuid) from public;
revoke all on function reactor.recount_users(uuid, int) from public;
grant execute on function reactor.recount_users(uuid, int) to service_role, reactor_worker;
