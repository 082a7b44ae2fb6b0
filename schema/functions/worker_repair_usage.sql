-- Repair usage, up to p_limit rows of each kind. One session repairs at a time; the others wait for it.
--
-- Returns    the number of repaired rows of each kind, if above 0:
--              'reservations'  leaked reservations: their sources become failed, their bytes are released
--              'months'        usage rows whose month was over: they get this month and the count 0. Only readers of
--                              the table need that: the limits ignore the count of a month that is over
-- Changes    also adds up quota rejections: one row per minute, quota and plan remains for the last week, and one row
--            per quota and plan for the time before. Deletes the counts of deleted runs of past months
-- Raises     lock_not_available if another session repairs for longer than lock_timeout
-- Locks      the row of reactor.usage_repair; sources, then usage rows. Skips sources and usage rows that other
--            sessions have locked, but waits for the usage rows of
--            released reservations, in order of user_id
create or replace function reactor.repair_usage(p_limit int)
    returns table (kind text, count bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_month constant text := to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM');
    v_leaked uuid[];
begin
    perform from reactor.usage_repair as r for update;
    v_leaked := array(
        select s.id
          from reactor.leaked_reservation() as l
          join public.sources as s on s.id = l.source_id
         order by l.pending_since
         limit p_limit
           for update of s skip locked);
    return query
    with released as (
        update public.sources as s
           set storage_status = 'failed'
         where s.id = any(v_leaked)
           -- check again in this second statement, which sees an upload that was queued before the source was locked
           and exists (select from reactor.leaked_reservation() as l where l.source_id = s.id)
        returning s.id)
    select 'reservations', count(*) from released having count(*) > 0;
    return query
    with over as materialized (
        select u.user_id
          from public.storage_usage as u
         where u.billing_month < v_month
         order by u.user_id
         limit p_limit
           for no key update skip locked
    ), turned as (
        update public.storage_usage as u
           set billing_month = v_month,
               interpretation_count_month = 0
          from over as o
         where u.user_id = o.user_id
        returning u.user_id)
    select 'months', count(*) from turned having count(*) > 0;
    delete from reactor.deleted_interpretation as d where d.billing_month < v_month;
    with ripe as materialized (
        -- skip rows that a running transaction has locked: a later call adds them up
        select r.minute, r.quota, r.plan, r.backend
          from reactor.quota_rejection as r
         where r.backend <> 0 and r.minute < statement_timestamp() - interval '5 minutes'
            or r.minute < statement_timestamp() - interval '7 days' and r.minute > '-infinity'
           for update skip locked
    ), old as (
        delete from reactor.quota_rejection as r
         using ripe
         where (r.minute, r.quota, r.plan, r.backend) = (ripe.minute, ripe.quota, ripe.plan, ripe.backend)
        returning r.minute, r.quota, r.plan, r.count)
    insert into reactor.quota_rejection as r (minute, quota, plan, backend, count)
    select case when o.minute < statement_timestamp() - interval '7 days' then '-infinity' else o.minute end as minute,
           o.quota, o.plan, 0, sum(o.count)
      from old as o
     group by 1, o.quota, o.plan
    on conflict (minute, quota, plan, backend) do update set count = r.count + excluded.count;
end $$;

revoke all on function reactor.repair_usage(int) from public;
grant execute on function reactor.repair_usage(int) to reactor_worker, service_role;
