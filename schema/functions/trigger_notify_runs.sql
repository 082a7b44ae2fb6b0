-- Notify the reactors of runs that start, end, or become due earlier, and of one heartbeat per minute and run.
--
-- Most heartbeats send no notification, because a heartbeat only makes a deadline later: at the old deadline, a reactor
-- calls expire_runs, which returns the new deadline. A heartbeat without a notification commits faster, because all
-- commits with notifications wait for the same lock of the server.
--
-- A trigger on a column fires only if the UPDATE itself names the column. If only an app's BEFORE trigger changes it,
-- no notification is sent, and the sweep finds the run.

-- Return a run's hint. Its due time is the run's deadline, or null if the run isn't running. For a run with heartbeats
-- and without heartbeat_timeout, the due time is timeout_at, and the hint has a fourth element: the age of the last
-- heartbeat in milliseconds (0 to a day).
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
            rtrim(reactor.hint(p_run.id, p_run.user_id, p_run.timeout_at), ']') || ','
            -- subtract the epochs, not the times: before PostgreSQL 17, subtracting the time 'infinity' raises
            || greatest(0, least(864e5, 1000 * (extract(epoch from statement_timestamp())
                                                - extract(epoch from p_run.heartbeat_at))))::bigint
            || ']'
        end
$$;

-- Notify of the running runs of one INSERT.
create or replace function reactor.notify_inserted_runs()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform reactor.send('reactor_runs', array_agg(started.hint))
      from (select reactor.run_hint(n) as hint
              from new_rows as n
             where n.status = 'running'
             limit 1001) as started;
    return null;
end $$;

-- Notify of a run that an UPDATE starts, ends, makes due earlier, or gives another heartbeat_timeout.
--
-- Also set heartbeat_notified_until to null if it is before heartbeat_at, for example because an app wrote an older row
-- back. Otherwise a heartbeat between the two times would send no notification.
create or replace function reactor.notify_updated_run()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, because plpgsql evaluates an assignment without a query
begin
    if new.heartbeat_notified_until < new.heartbeat_at then
        update public.interpretation_runs as r set heartbeat_notified_until = null where r.id = new.id;
    end if;
    if 'running' in (old.status, new.status)
       and (old.status is distinct from new.status
            or coalesce(new.timeout_at < old.timeout_at, old.timeout_at is null and new.timeout_at is not null)
            or new.heartbeat_timeout is distinct from old.heartbeat_timeout) then
        -- read the row again, because mark_run has changed a started run; use `new` if an app's trigger deleted the row
        v_hint := coalesce((select reactor.run_hint(r) from public.interpretation_runs as r where r.id = new.id),
                           reactor.run_hint(new));
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

-- Notify of a heartbeat, and set the time before which later heartbeats send no notification. notify_updated_run
-- notifies of a start or an end.
create or replace function reactor.notify_heartbeat()
    returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_hint text;
    v_is_sent boolean; -- assigned, because plpgsql evaluates an assignment without a query
begin
    if new.status = 'running' and old.status = 'running' and not reactor.is_marking(new.id) then
        update public.interpretation_runs as r
           set heartbeat_notified_until = reactor.notified_until(new.heartbeat_at)
         where r.id = new.id;
        v_hint := reactor.run_hint(new);
        v_is_sent := reactor.send('reactor_runs', array[v_hint]);
    end if;
    return null;
end $$;

revoke all on function reactor.run_hint(public.interpretation_runs) from public;
revoke all on function reactor.notify_inserted_runs() from public;
revoke all on function reactor.notify_updated_run() from public;
revoke all on function reactor.notify_heartbeat() from public;

create or replace trigger reactor_notify_inserted
    after insert on public.interpretation_runs
    referencing new table as new_rows
    for each statement execute function reactor.notify_inserted_runs();

create or replace trigger reactor_notify_updated
    after update of status, timeout_at, heartbeat_timeout, heartbeat_notified_until on public.interpretation_runs
    for each row execute function reactor.notify_updated_run();

-- Fires unless old.heartbeat_at <= new.heartbeat_at < old.heartbeat_notified_until. Heartbeats have only this trigger
-- and this short WHEN clause, because the server parses the clause in each UPDATE (schema/README.md, decision 9).
create or replace trigger reactor_notify_heartbeat
    after update of heartbeat_at on public.interpretation_runs
    for each row
    when (((old.heartbeat_at, old.heartbeat_notified_until) overlaps (new.heartbeat_at, new.heartbeat_at)) is not true)
    execute function reactor.notify_heartbeat();
