-- Return whether an error passes without a change of the row: another session holds a lock, or the server lacks a
-- resource. All other errors refuse the row; also those that a function of the app raises, unless they say "busy". The
-- classes are those of reactor/postgres/sqlstate.py.
--
-- p_context  the error's PG_EXCEPTION_CONTEXT, which names the innermost function first
create or replace function reactor.is_passing(p_sqlstate text, p_context text)
    returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select p_sqlstate in ('40001', '40003', '40P01', '55P03', '57014')
           or (left(p_sqlstate, 2) in ('08', '53', '57', '58', '72', 'F0', 'XX') or p_sqlstate = '55006')
              and coalesce(substring(p_context from 'PL/pgSQL[^(]* ([^ (]+)\('), 'reactor.') like 'reactor.%'
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

revoke all on function reactor.is_passing(text, text) from public;
revoke all on function reactor.raise_unchanged(text) from public;
