import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../src/db/schema.js';

/** The simulation's own connections: what they write is no work of Berth. */
export const OWN_NAME = 'chaos';
/** What Berth calls its connections where nobody gave them another name: which process it is cannot be told then. */
const UNNAMED = 'berth';

/**
 * Has the database itself watch the leases: that none is taken from its holder, and that nobody writes an instance under a lease that is another
 * process's. For the latter a process's connections must have its id for their `application_name`.
 */
export async function watchLeases(db: Kysely<Schema>): Promise<void> {
  for (const statement of WATCH) await sql.raw(statement).execute(db);
}

/** What was seen; the watch forgets it. */
export async function brokenLeases(db: Kysely<Schema>): Promise<string[]> {
  const { rows } = await sql<{ what: string }>`delete from chaos_seen returning what`.execute(db);
  return rows.map(({ what }) => what);
}

const WATCH = [
  `create table chaos_seen (what text not null)`,
  `create function chaos_lease() returns trigger language plpgsql as $$
    declare me text := current_setting('application_name');
    begin
      if me = '${OWN_NAME}' then return new; end if;
      if new.lease_epoch < old.lease_epoch then
        insert into chaos_seen values (format('the epoch of %s fell from %s to %s by %s', new.id, old.lease_epoch, new.lease_epoch, me));
      end if;
      if new.lease_epoch <> old.lease_epoch and old.lease_until > now() then
        insert into chaos_seen values (format('%s took the lease on %s from %s before its end', me, new.id, old.lease_owner));
      end if;
      if new.lease_epoch <> old.lease_epoch and new.lease_owner <> me and me <> '${UNNAMED}' then
        insert into chaos_seen values (format('%s took a lease on %s for %s', me, new.id, new.lease_owner));
      end if;
      return new;
    end $$`,
  `create trigger chaos_lease before update of lease_owner, lease_until, lease_epoch on deployments
    for each row execute function chaos_lease()`,
  `create function chaos_instance() returns trigger language plpgsql as $$
    declare
      me text := current_setting('application_name');
      holder text;
    begin
      if me in ('${OWN_NAME}', '${UNNAMED}') then return new; end if;
      select lease_owner into holder from deployments where id = new.deployment_id;
      if holder is distinct from me then
        insert into chaos_seen values (format('%s wrote instance %s (%s), whose deployment %s has', me, new.id, tg_op, holder));
      end if;
      return new;
    end $$`,
  `create trigger chaos_instance before insert or update of token_digest, applied_version, started_at, stopped_at, ended_at, role, limits
    on instances for each row execute function chaos_instance()`,
];
