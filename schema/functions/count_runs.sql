-- Count the start of each run against its user's interpretations of the month, whoever starts it, once per run; refuse
-- what would be over the limit.
--
-- billing_month on the run says in which month (UTC) it was counted, so that a run is never counted twice and the books
-- can be recounted from rows. Nobody sets it but mark_run_start, and heartbeat_told_until but the triggers that run after
-- it: an app that writes rows back as it read them changes neither.
create or replace function reactor.mark_run_start()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'UPDATE' then
        new.billing_month := old.billing_month;
        new.heartbeat_told_until := old.heartbeat_told_until;
    else
        new.billing_month := null;
        new.heartbeat_told_until := null;
    end if;
    if new.status = 'running' and new.billing_month is null
       -- running before the column existed: it was begun, and nobody counted then
       and (tg_op = 'INSERT' or old.status is distinct from 'running') then
        new.billing_month := to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM');
    end if;
    return new;
end $$;

-- Count p_count runs of a user, whose books are open, that were started in p_month. One that began in the last moment of a month that is over by
-- now is in nobody's way any more.
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
    v_standing record;
begin
    perform from public.storage_usage where user_id = p_user_id for no key update;
    select * into strict v_standing from reactor.standing(p_user_id);
    if v_standing.billing_month <> p_month then
        return;
    end if;
    if v_standing.interpretations_used + p_count > v_standing.interpretation_limit then
        raise exception 'INTERPRETATION_QUOTA_EXCEEDED: the plan''s interpretations of this month are used up'
            using errcode = 'RX102',
                  detail = jsonb_build_object('plan', v_standing.plan, 'limit', v_standing.interpretation_limit,
                                              'used', v_standing.interpretations_used,
                                              'resets_at', v_standing.resets_at)::text,
                  hint = 'Wait until resets_at, or move to a larger plan.';
    end if;
    update public.storage_usage as u
       set interpretation_count_month = v_standing.interpretations_used + p_count,
           billing_month = v_standing.billing_month
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
        perform reactor.open_books(array(
            select distinct n.user_id from new_rows as n where n.billing_month is not null and n.user_id is not null));
        perform reactor.count_run_starts(started.user_id, started.billing_month, started.count)
           from (select n.user_id, n.billing_month, count(*)::int as count from new_rows as n
                  where n.billing_month is not null and n.user_id is not null
                  group by n.user_id, n.billing_month order by n.user_id) as started;
    elsif tg_op = 'UPDATE' then
        if new.user_id is not null then
            perform reactor.open_books(array[new.user_id]);
        end if;
        if old.billing_month is not null then -- counted already, and given to another user: the count goes along
            perform reactor.uncount_run(old.user_id, new.user_id, new.billing_month);
        end if;
        if new.user_id is not null then
            perform reactor.count_run_starts(new.user_id, new.billing_month, 1);
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

revoke all on function reactor.mark_run_start() from public;
revoke all on function reactor.count_run_starts(uuid, text, int) from public;
revoke all on function reactor.uncount_run(uuid, uuid, text) from public;
revoke all on function reactor.count_runs() from public;

create or replace trigger reactor_mark_start_inserted
    before insert on public.interpretation_runs
    for each row execute function reactor.mark_run_start();

-- Not for heartbeats: they name none of these columns, nor those of reactor_count_updated.
create or replace trigger reactor_mark_start_updated
    before update of status, billing_month, heartbeat_told_until on public.interpretation_runs
    for each row execute function reactor.mark_run_start();

create or replace trigger reactor_count_inserted
    after insert on public.interpretation_runs
    referencing new table as new_rows
    for each statement execute function reactor.count_runs();

create or replace trigger reactor_count_updated
    after update of status, billing_month, user_id on public.interpretation_runs
    for each row when (new.billing_month is not null
                       and (old.billing_month is null or old.user_id is distinct from new.user_id))
    execute function reactor.count_runs();

create or replace trigger reactor_count_deleted
    after delete on public.interpretation_runs
    referencing old table as old_rows
    for each statement execute function reactor.count_runs();

create or replace trigger reactor_count_truncated
    after truncate on public.interpretation_runs
    for each statement execute function reactor.count_runs();
