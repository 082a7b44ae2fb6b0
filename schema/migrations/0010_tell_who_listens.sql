-- pulse() answers one column more, and count_run_starts() is told the month, which `create or replace` doesn't allow; they are
-- made again right after this.
--
-- Locks: none on tables.

drop function if exists reactor.report_presence(uuid, text, text, text, text, interval);
drop function if exists reactor.count_run_starts(uuid, int);
