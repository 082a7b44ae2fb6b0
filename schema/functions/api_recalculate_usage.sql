-- Recount a user's usage from the rows of sources and interpretation_runs. Only a service may call it.
--
-- Returns  the object of get_usage, and "changed": whether the figures were wrong
-- Refuses  NOT_ALLOWED, INVALID_ARGUMENT
-- Locks    the user's usage row, before anything is counted
create or replace function public.recalculate_usage(p_user_id uuid)
    returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_changed boolean;
begin
    if reactor.caller() is not null then
        return reactor.refuse('NOT_ALLOWED', 'Only a service recalculates usage.');
    elsif p_user_id is null then
        return reactor.refuse_argument('p_user_id must be the id of a user');
    end if;
    perform reactor.ensure_usage_rows(array[p_user_id]);
    v_changed := reactor.recount_user(p_user_id);
    return reactor.usage_of(p_user_id) || jsonb_build_object('changed', v_changed);
end $$;

revoke all on function public.recalculate_usage(uuid) from public, anon, authenticated;
grant execute on function public.recalculate_usage(uuid) to service_role, reactor_worker;
