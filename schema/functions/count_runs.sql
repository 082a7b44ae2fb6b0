-- Count the start of each run against its user's interpretations of the month, whoever starts it, once per run; refuse
-- what would be over the limit.
--
-- billing_month on the run says in which month (UTC) it was counted, so that a run is never counted twice and the books
-- can be recounted from rows. Nobody sets it but mark_run_start: an app that writes rows back as it read them changes
-- nothing.
--
-- A run's start is its first heartbeat: a worker that dies before it sends one is found as well. Runs that were running
-- before the columns existed have none, and are held to their timeout_at alone. The start is notified, and so told as
-- heartbeats are (notify_heartbeat).
--
-- What an UPDATE starts is written once more after it. A BEFORE trigger would spare that, and cost every UPDATE of the
-- table: the server would lock each row before, also those of heartbeats, for which no trigger is meant.
--
-- Marking and counting are in one file, for it is one transaction of `reactor migrate`: no start may fall between them.

-- Answers  until when later heartbeats needn't be told. A minute after the last time that there is would be none
--
-- No pinned search_path, so that it is inlined (see hint). Its callers pin theirs.
create or replace function reactor.notified_until(p_heartbeat_at timestamptz)
    returns timestamptz
    language sql
    stable
as $$
    select least(p_heartbeat_at, '9999-01-01 00:00:00+00') + interval '1 minute'
$$;

create or replace function reactor.mark_run_start()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- what was running before billing_month existed was begun, and nobody counted then
    v_is_start constant boolean := new.status = 'running' and (tg_op = 'INSERT' or old.status is distinct from 'running');
    v_now constant timestamptz := clock_timestamp();
    v_month constant text := case when v_is_start then to_char(v_now at time zone 'utc', 'YYYY-MM') end;
    v_before constant text := coalesce(current_setting('reactor.marking', true), '');
    v_marking text;
begin
    if tg_op = 'INSERT' then
        new.billing_month := v_month;
        new.heartbeat_notified_until := null;
        if v_is_start then
            new.started_at := coalesce(new.started_at, v_now);
            new.heartbeat_at := coalesce(new.heartbeat_at, new.started_at);
            new.heartbeat_notified_until := reactor.notified_until(new.heartbeat_at);
        end if;
        return new;
    elsif not v_is_start and old.billing_month is not distinct from new.billing_month
       or v_before = new.id::text then -- nothing to mark, or it is by one of the two UPDATEs below
        return null;
    end if;
    v_marking := set_config('reactor.marking', new.id::text, true);
    if v_is_start then
        update public.interpretation_runs as r
           set started_at = coalesce(r.started_at, v_now),
               heartbeat_at = coalesce(r.heartbeat_at, r.started_at, v_now),
               heartbeat_notified_until = reactor.notified_until(coalesce(r.heartbeat_at, r.started_at, v_now)),
               billing_month = coalesce(old.billing_month, v_month)
         where r.id = new.id;
    else
        update public.interpretation_runs as r set billing_month = old.billing_month where r.id = new.id;
    end if;
    v_marking := set_config('reactor.marking', v_before, true); -- another's, where a trigger of the app's starts runs
    if v_is_start and old.billing_month is null and new.user_id is not null then
        perform reactor.ensure_usage_rows(array[new.user_id]);
        perform reactor.count_run_starts(new.user_id, v_month, 1);
    end if;
    return null;
end $$;

-- Count p_count runs of a user, whose books are open, that were started in p_month. One that began in the last moment of a
-- month that is over by now is in nobody's way any more.
--
-- Raises     RX102  they would be over the limit. Its DETAIL is JSON: plan, limit, used, resets_at
-- Locks      the user's usage row, before it is counted; a month that is over is turned over in the same statement
-- Invariant  interpretation_count_month <= limit, under any interleaving
create or replace function reactor.count_run_starts(p_user_id uuid, p_month text, p_count int)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_quota record;
begin
    perform from public.storage_usage where user_id = p_user_id for no key update;
    select * into strict v_quota from reactor.effective_quota(p_user_id);
    if v_quota.billing_month <> p_month then
        return;
    end if;
    if v_quota.interpretations_used + p_count > v_quota.interpretation_limit then
        raise exception 'INTERPRETATION_QUOTA_EXCEEDED: the plan''s interpretations of this month are used up'
            using errcode = 'RX102',
                  detail = jsonb_build_object('plan', v_quota.plan, 'limit', v_quota.interpretation_limit,
                                              'used', v_quota.interpretations_used,
                                              'resets_at', v_quota.resets_at)::text,
                  hint = 'Wait until resets_at, or move to a larger plan.';
    end if;
    update public.storage_usage as u
       set interpretation_count_month = v_quota.interpretations_used + p_count,
           billing_month = v_quota.billing_month
     where u.user_id = p_user_id;
end $$;

-- Take one run of a month off a user's count, before it is counted for the one whom it moves to.
--
-- Locks  both usage rows, in order of user_id
create or replace function reactor.uncount_run(p_user_id uuid, p_next_user_id uuid, p_month text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from public.storage_usage where user_id in (p_user_id, p_next_user_id) order by user_id for no key update;
    update public.storage_usage as u set interpretation_count_month = greatest(0, u.interpretation_count_month - 1)
     where u.user_id = p_user_id and u.billing_month = p_month;
end $$;

create or replace function reactor.count_runs()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        perform reactor.ensure_usage_rows(array(
            select distinct n.user_id from new_rows as n where n.billing_month is not null and n.user_id is not null));
        perform reactor.count_run_starts(started.user_id, started.billing_month, started.count)
           from (select n.user_id, n.billing_month, count(*)::int as count from new_rows as n
                  where n.billing_month is not null and n.user_id is not null
                  group by n.user_id, n.billing_month order by n.user_id) as started;
    elsif tg_op = 'UPDATE' then
        if old.billing_month is null or old.user_id is not distinct from new.user_id then
            return null;
        end if;
        -- counted already, and given to another user: the count goes along
        if new.user_id is not null then
            perform reactor.ensure_usage_rows(array[new.user_id]);
        end if;
        perform reactor.uncount_run(old.user_id, new.user_id, old.billing_month);
        if new.user_id is not null then
            perform reactor.count_run_starts(new.user_id, old.billing_month, 1);
        end if;
    elsif tg_op = 'DELETE' then -- their rows go, and what was interpreted stays counted
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select o.user_id, o.billing_month, count(*) from old_rows as o
         where o.billing_month = to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM') and o.user_id is not null
         group by o.user_id, o.billing_month;
    else -- TRUNCATE, which shows no rows: all that was counted is gone
        delete from reactor.deleted_interpretation;
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select u.user_id, u.billing_month, u.interpretation_count_month from public.storage_usage as u
         where u.interpretation_count_month > 0;
    end if;
    return null;
end $$;

revoke all on function reactor.notified_until(timestamptz) from public;
revoke all on function reactor.mark_run_start() from public;
revoke all on function reactor.count_run_starts(uuid, text, int) from public;
revoke all on function reactor.uncount_run(uuid, uuid, text) from public;
revoke all on function reactor.count_runs() from public;

drop trigger if exists reactor_stamp_start_inserted on public.interpretation_runs;
drop trigger if exists reactor_stamp_start_updated on public.interpretation_runs;
drop function if exists reactor.stamp_run_start();

create or replace trigger reactor_mark_start_inserted
    before insert on public.interpretation_runs
    for each row execute function reactor.mark_run_start();

-- Not for heartbeats: they name neither of these columns, nor that of reactor_count_updated.
create or replace trigger reactor_mark_start_updated
    after update of status, billing_month on public.interpretation_runs
    for each row execute function reactor.mark_run_start();

create or replace trigger reactor_count_inserted
    after insert on public.interpretation_runs
    referencing new table as new_rows
    for each statement execute function reactor.count_runs();

create or replace trigger reactor_count_updated
    after update of user_id on public.interpretation_runs
    for each row execute function reactor.count_runs();

create or replace trigger reactor_count_deleted
    after delete on public.interpretation_runs
    referencing old table as old_rows
    for each statement execute function reactor.count_runs();

create or replace trigger reactor_count_truncated
    after truncate on public.interpretation_runs
    for each statement execute function reactor.count_runs();
