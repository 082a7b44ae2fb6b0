-- Return whether no function of the app raised an error. p_context is the error's PG_EXCEPTION_CONTEXT, which names the
-- innermost function first.
create or replace function reactor.is_raised_by_reactor(p_context text)
    returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(substring(p_context from 'PL/pgSQL[^(]* ([^ (]+)\('), 'reactor.') like 'reactor.%'
$$;

-- Return whether an error passes without a change of the row: another session holds a lock, or the server lacks a
-- resource. All other errors refuse the row; also those that a function of the app raises, unless they say "busy". The
-- classes are those of reactor/postgres/sqlstate.py.
create or replace function reactor.is_passing(p_sqlstate text, p_context text)
    returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select p_sqlstate in ('40001', '40003', '40P01', '55P03', '57014')
           or (left(p_sqlstate, 2) in ('08', '53', '57', '58', '72', 'F0', 'XX') or p_sqlstate = '55006')
              and reactor.is_raised_by_reactor(p_context)
$$;

-- Return whether an error concerns every row alike: a missing privilege, column or function, or a server that takes no
-- writes. The caller must raise it again, so that no row is refused for it. Not if a function of the app raised it. The
-- classes are those of reactor/postgres/sqlstate.py.
create or replace function reactor.concerns_everybody(p_sqlstate text, p_context text)
    returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select (left(p_sqlstate, 2) in ('25', '26', '28', '3D')
            or p_sqlstate in ('0A000', '3F000', '42501', '42703', '42704', '42883', '42P01'))
           and reactor.is_raised_by_reactor(p_context)
$$;

-- Raise the exception for a row of this table that a trigger of the app left unchanged, without an error of its own.
--
-- Returns  never; the type lets a query call it
create or replace function reactor.raise_unchanged(p_table text)
    returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'RX003',
        message = format('a trigger of the app on %s left the row unchanged', p_table);
end $$;

revoke all on function reactor.is_raised_by_reactor(text) from public;
revoke all on function reactor.is_passing(text, text) from public;
revoke all on function reactor.concerns_everybody(text, text) from public;
revoke all on function reactor.raise_unchanged(text) from public;
