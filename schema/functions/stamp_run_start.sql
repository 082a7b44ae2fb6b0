-- A run's start is its first heartbeat: a worker that dies before it sends one is found as well. Runs that were
-- running before the columns existed have none, and are held to their timeout_at alone. The start is notified, and so told
-- as heartbeats are (notify_heartbeat).
create or replace function reactor.stamp_run_start()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.started_at := coalesce(new.started_at, clock_timestamp());
    new.heartbeat_at := new.started_at;
    new.heartbeat_told_until := least(new.heartbeat_at, '9999-01-01 00:00:00+00') + interval '1 minute';
    return new;
end $$;

revoke all on function reactor.stamp_run_start() from public;

create or replace trigger reactor_stamp_start_inserted
    before insert on public.interpretation_runs
    for each row when (new.status = 'running' and new.heartbeat_at is null)
    execute function reactor.stamp_run_start();

create or replace trigger reactor_stamp_start_updated
    before update of status on public.interpretation_runs
    for each row when (new.status = 'running' and old.status <> 'running' and new.heartbeat_at is null)
    execute function reactor.stamp_run_start();
