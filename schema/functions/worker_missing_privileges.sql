-- List what prevents the calling role from doing the reactor's work: one line per problem, no line if there is none.
--
-- The reactor calls this when it starts, because the queue looks empty if policies hide its rows from the role. The
-- function runs with the caller's rights.
create or replace function reactor.missing_privileges()
    returns setof text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format('role %I may not read %s', current_user, t.name)
      from unnest(array['public.sources', 'public.interpretation_runs', 'public.upload_queue']) as t (name)
     where not has_table_privilege(t.name, 'select')
    union all
    select format('row level security hides rows of %s from role %I', c.oid::regclass, current_user)
      from pg_class as c
     where c.oid in ('public.sources'::regclass, 'public.interpretation_runs'::regclass,
                     'public.upload_queue'::regclass)
       and row_security_active(c.oid)
       -- one permissive policy must show all rows, and no restrictive policy may hide rows
       and (select coalesce(bool_and(s.is_shown) filter (where not s.polpermissive), true)
                   and coalesce(bool_or(s.is_shown) filter (where s.polpermissive), false)
              from (select p.polpermissive, pg_get_expr(p.polqual, p.polrelid) = 'true' as is_shown
                      from pg_policy as p
                     where p.polrelid = c.oid and p.polcmd in ('r', '*')
                       and (0 = any(p.polroles) or exists (
                           select from unnest(p.polroles) as r (oid) where r.oid <> 0
                              and pg_has_role(current_user, r.oid, 'usage')))) as s) is not true
    union all
    select format('role %I may not execute %s', current_user, f.oid::regprocedure)
      from pg_proc as f
     where f.pronamespace = 'reactor'::regnamespace
       and f.proname in ('claim_uploads', 'settle_uploads', 'confirm_stored', 'extend_leases', 'rescue_uploads',
                         'refuse_upload', 'sweep_uploads', 'expire_runs', 'sweep_runs', 'repair_usage',
                         'report_presence', 'deregister_instance')
       and not has_function_privilege(f.oid, 'execute')
$$;

revoke all on function reactor.missing_privileges() from public;
grant execute on function reactor.missing_privileges() to reactor_worker, service_role;
