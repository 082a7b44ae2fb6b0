-- claim_uploads() answers one column more, which `create or replace` doesn't allow; it is made again right after this.
--
-- Locks: none on tables.

drop function if exists reactor.claim_uploads(uuid[], uuid, interval);
