-- Mark the start of each run, and count the run once in its user's interpretations of the month.
--
-- Marking  A start writes started_at, a first heartbeat, billing_month (the month, UTC, in which the run is counted)
--          and heartbeat_notified_until. Apps can't write billing_month: a run is never counted twice, and usage can
--          be recounted from rows.
-- Counting reactor.count_run_starts checks the limit and raises RX102 if a start is over it.
--
-- The start writes a heartbeat so that a worker that dies before its own first heartbeat is found. A run that was
-- started before these columns existed has no heartbeat_at: only its timeout_at applies, and the run isn't counted.
--
-- When an INSERT starts a run, a BEFORE trigger marks the row. When an UPDATE starts it, an AFTER trigger marks the row
-- by a second UPDATE (mark_run): a BEFORE UPDATE trigger would make each UPDATE, heartbeats included, lock its rows
-- first (schema/README.md, decision 9).
--
-- Marking and counting are in one file, because `reactor migrate` installs a file in one transaction: no run starts
-- while only one of them is installed.

-- Return the time before which later heartbeats send no notification: a minute after this heartbeat. Never raises, and
-- never returns 'infinity', for any time that an app wrote.
--
-- Inlined  into the calling query; a pinned search_path would prevent that (schema/README.md, decision 8)
create or replace function reactor.notified_until(p_heartbeat_at timestamptz)
    returns timestamptz
    language sql
    stable
as $$
    select least(p_heartbeat_at, '9999-01-01 00:00:00+00') + interval '1 minute'
$$;

-- Return whether the current UPDATE of this run comes from mark_run. The triggers ignore such an UPDATE.
--
-- Inlined  like notified_until()
create or replace function reactor.is_marking(p_run_id uuid)
    returns boolean
    language sql
    stable
as $$
    select coalesce(current_setting('reactor.marking', true) = p_run_id::text, false)
$$;

-- Mark a run that an UPDATE has started, or restore a billing_month that an app changed.
--
-- p_before         the run before the app's UPDATE
-- p_started_month  the month of the start; null: the UPDATE started no run
create or replace function reactor.mark_run(p_before public.interpretation_runs, p_started_month text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_marking constant text := coalesce(current_setting('reactor.marking', true), '');
    v_set text; -- never read. An assignment calls set_config without running a query; PERFORM would run one
begin
    v_set := set_config('reactor.marking', p_before.id::text, true);
    if p_started_month is not null then
        update public.interpretation_runs as r
           set started_at = coalesce(r.started_at, v_now),
               heartbeat_at = coalesce(r.heartbeat_at, r.started_at, v_now),
               heartbeat_notified_until = reactor.notified_until(coalesce(r.heartbeat_at, r.started_at, v_now)),
               billing_month = coalesce(p_before.billing_month, p_started_month)
         where r.id = p_before.id;
    else
        update public.interpretation_runs as r
           set billing_month = p_before.billing_month
         where r.id = p_before.id;
    end if;
    -- restore the previous value, because calls can be nested: while mark_run updates one run, a trigger of the app
    -- may start another run
    v_set := set_config('reactor.marking', v_marking, true);
end $$;

-- Count p_count runs that a user started in p_month. The user must have a usage row. If p_month is over by now, count
-- nothing.
--
-- Raises     RX102  the runs would be over the limit; details: plan, limit, used, resets_at
-- Locks      the user's usage row, before it is read
-- Invariant  concurrent calls never raise interpretation_count_month above the limit
create or replace function reactor.count_run_starts(p_user_id uuid, p_month text, p_count int)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_quota record;
begin
    perform from public.storage_usage where user_id = p_user_id for no key update;
    select q.plan, q.interpretation_limit, q.interpretations_used, q.billing_month, q.resets_at into strict v_quota
      from reactor.effective_quota(p_user_id) as q;
    if v_quota.billing_month <> p_month then
        return;
    end if;
    if v_quota.interpretations_used + p_count > v_quota.interpretation_limit then
        perform reactor.raise_quota_exceeded('INTERPRETATION_QUOTA_EXCEEDED', jsonb_build_object(
            'plan', v_quota.plan, 'limit', v_quota.interpretation_limit, 'used', v_quota.interpretations_used,
            'resets_at', v_quota.resets_at));
    end if;
    update public.storage_usage as u
       set interpretation_count_month = v_quota.interpretations_used + p_count,
           billing_month = v_quota.billing_month
     where u.user_id = p_user_id;
end $$;

-- Move the count of one run of a month from one user to another. Either user may be null.
--
-- Raises  RX102, like count_run_starts
-- Locks   both usage rows, in order of user_id
create or replace function reactor.move_run_count(p_from_user_id uuid, p_to_user_id uuid, p_month text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if p_to_user_id is not null then
        perform reactor.ensure_usage_rows(array[p_to_user_id]);
    end if;
    perform from public.storage_usage
      where user_id in (p_from_user_id, p_to_user_id) order by user_id for no key update;
    update public.storage_usage as u
       set interpretation_count_month = greatest(0, u.interpretation_count_month - 1)
     where u.user_id = p_from_user_id and u.billing_month = p_month;
    if p_to_user_id is not null then
        perform reactor.count_run_starts(p_to_user_id, p_month, 1);
    end if;
end $$;

-- Mark an inserted run: as started if it is running, otherwise as not counted.
create or replace function reactor.mark_inserted_run()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    new.billing_month := null;
    new.heartbeat_notified_until := null;
    if new.status = 'running' then
        new.billing_month := to_char(v_now at time zone 'utc', 'YYYY-MM');
        new.started_at := coalesce(new.started_at, v_now);
        new.heartbeat_at := coalesce(new.heartbeat_at, new.started_at);
        new.heartbeat_notified_until := reactor.notified_until(new.heartbeat_at);
    end if;
    return new;
end $$;

-- Count the runs of one INSERT that are running.
create or replace function reactor.count_inserted_runs()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform reactor.ensure_usage_rows(array(
        select distinct n.user_id from new_rows as n where n.billing_month is not null and n.user_id is not null));
    perform reactor.count_run_starts(started.user_id, started.billing_month, started.count)
       from (select n.user_id, n.billing_month, count(*)::int as count
               from new_rows as n
              where n.billing_month is not null and n.user_id is not null
              group by n.user_id, n.billing_month
              order by n.user_id) as started;
    return null;
end $$;

-- Mark and count a run that an UPDATE starts. If an UPDATE gives a counted run to another user, move its count too.
create or replace function reactor.count_updated_run()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_started_month constant text := case when new.status = 'running' and old.status is distinct from 'running'
                                          then to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM') end;
begin
    if reactor.is_marking(new.id) then
        return null;
    end if;
    if old.billing_month is not null and old.user_id is distinct from new.user_id then
        perform reactor.move_run_count(old.user_id, new.user_id, old.billing_month);
    end if;
    if v_started_month is not null or old.billing_month is distinct from new.billing_month then
        perform reactor.mark_run(old, v_started_month);
    end if;
    if v_started_month is not null and old.billing_month is null and new.user_id is not null then
        perform reactor.ensure_usage_rows(array[new.user_id]);
        perform reactor.count_run_starts(new.user_id, v_started_month, 1);
    end if;
    return null;
end $$;

-- Keep the count of runs whose rows are deleted. A TRUNCATE trigger sees no rows, so it copies the count from each
-- user's usage row.
create or replace function reactor.keep_deleted_run_counts()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' then
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select o.user_id, o.billing_month, count(*)
          from old_rows as o
         where o.billing_month = to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM') and o.user_id is not null
         group by o.user_id, o.billing_month;
    else
        delete from reactor.deleted_interpretation;
        insert into reactor.deleted_interpretation (user_id, billing_month, count)
        select u.user_id, u.billing_month, u.interpretation_count_month
          from public.storage_usage as u
         where u.interpretation_count_month > 0;
    end if;
    return null;
end $$;

revoke all on function reactor.notified_until(timestamptz) from public;
revoke all on function reactor.is_marking(uuid) from public;
revoke all on function reactor.mark_run(public.interpretation_runs, text) from public;
revoke all on function reactor.count_run_starts(uuid, text, int) from public;
revoke all on function reactor.move_run_count(uuid, uuid, text) from public;
revoke all on function reactor.mark_inserted_run() from public;
revoke all on function reactor.count_inserted_runs() from public;
revoke all on function reactor.count_updated_run() from public;
revoke all on function reactor.keep_deleted_run_counts() from public;

create or replace trigger reactor_mark_inserted
    before insert on public.interpretation_runs
    for each row execute function reactor.mark_inserted_run();

create or replace trigger reactor_count_inserted
    after insert on public.interpretation_runs
    referencing new table as new_rows
    for each statement execute function reactor.count_inserted_runs();

-- Heartbeats update none of these columns. Triggers fire in order of name: this trigger fires before
-- reactor_notify_updated, which reads the marked row.
create or replace trigger reactor_count_updated
    after update of status, user_id, billing_month on public.interpretation_runs
    for each row execute function reactor.count_updated_run();

create or replace trigger reactor_count_deleted
    after delete on public.interpretation_runs
    referencing old table as old_rows
    for each statement execute function reactor.keep_deleted_run_counts();

create or replace trigger reactor_count_truncated
    after truncate on public.interpretation_runs
    for each statement execute function reactor.keep_deleted_run_counts();
