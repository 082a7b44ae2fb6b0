-- Tell the reactors of runs that start, end, or are due sooner than they knew; of heartbeats once a minute a run.
--
-- A heartbeat only moves a deadline later: not hearing of one costs a look-up at the old deadline. So heartbeats are
-- throttled before the function is entered: a commit that notifies waits in one line with all others of the server.
-- They have a trigger of their own, with a short WHEN clause: the server parses those of the triggers whose columns an
-- UPDATE names anew in each statement, and copies those of all. The others have none, for that costs more than to enter a
-- function. Columns that only another trigger of the app's changes aren't named, and the sweep finds what became due by it.
--
-- A hint's due time is the run's deadline; a fourth figure is the heartbeat's age in milliseconds where the reactor's
-- default heartbeat timeout applies.
create or replace function reactor.run_hint(p_run public.interpretation_runs)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_run.status <> 'running' then
            reactor.hint(p_run.id, p_run.user_id, null)
        when p_run.heartbeat_timeout is not null or p_run.heartbeat_at is null then
            reactor.hint(p_run.id, p_run.user_id,
                reactor.deadline(p_run.timeout_at, p_run.heartbeat_at, p_run.heartbeat_timeout))
        else
            rtrim(reactor.hint(p_run.id, p_run.user_id, p_run.timeout_at), ']') || ',' || greatest(0, least(864e5,
                -- not the difference of the two: before PostgreSQL 17 there is none from 'infinity'
                1000 * (extract(epoch from statement_timestamp()) - extract(epoch from p_run.heartbeat_at))))::bigint || ']'
        end
$$;

create or replace function reactor.notify_runs()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, for an assignment is evaluated without a query
begin
    if tg_op = 'INSERT' then
        perform reactor.send('reactor_runs', array_agg(started.hint))
          from (select reactor.run_hint(n) as hint from new_rows as n where n.status = 'running' limit 1001) as started;
    elsif 'running' in (old.status, new.status)
        and (old.status is distinct from new.status
             or coalesce(new.timeout_at < old.timeout_at, old.timeout_at is null and new.timeout_at is not null)
             or new.heartbeat_timeout is distinct from old.heartbeat_timeout) then
        -- as it stands: one that starts was marked as begun meanwhile; or as it was, if a trigger of the app's deleted it
        v_hint := coalesce((select reactor.run_hint(r) from public.interpretation_runs as r where r.id = new.id),
                           reactor.run_hint(new));
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

create or replace function reactor.notify_heartbeat()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, for an assignment is evaluated without a query
begin
    if new.status = 'running' and old.status = 'running' -- else its start or end is told
       and current_setting('reactor.marking', true) is distinct from new.id::text then
        update public.interpretation_runs as r
           set heartbeat_notified_until = reactor.notified_until(new.heartbeat_at)
         where r.id = new.id;
        v_hint := reactor.run_hint(new);
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

-- An app that writes rows back as it read them may set the time back before the last heartbeat, and what lies between
-- would not be told: the next heartbeat is.
create or replace function reactor.forget_notified_heartbeat()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if new.heartbeat_notified_until < new.heartbeat_at then
        update public.interpretation_runs as r set heartbeat_notified_until = null where r.id = new.id;
    end if;
    return null;
end $$;

revoke all on function reactor.run_hint(public.interpretation_runs) from public;
revoke all on function reactor.notify_runs() from public;
revoke all on function reactor.notify_heartbeat() from public;
revoke all on function reactor.forget_notified_heartbeat() from public;

create or replace trigger reactor_notify_inserted
    after insert on public.interpretation_runs
    referencing new table as new_rows
    for each statement execute function reactor.notify_runs();

create or replace trigger reactor_notify_updated
    after update of status, timeout_at, heartbeat_timeout on public.interpretation_runs
    for each row execute function reactor.notify_runs();

-- Unless it comes after the last one and before heartbeat_notified_until. OVERLAPS, for it is the shortest that PostgreSQL has
-- for this; null where a time is null. AFTER, though the row remembers: see mark_run_start.
create or replace trigger reactor_notify_heartbeat
    after update of heartbeat_at on public.interpretation_runs
    for each row
    when (((old.heartbeat_at, old.heartbeat_notified_until) overlaps (new.heartbeat_at, new.heartbeat_at)) is not true)
    execute function reactor.notify_heartbeat();

create or replace trigger reactor_forget_notified_heartbeat
    after update of heartbeat_notified_until on public.interpretation_runs
    for each row execute function reactor.forget_notified_heartbeat();
