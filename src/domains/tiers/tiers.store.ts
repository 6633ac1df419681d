import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** Tiers belong to the installation, not to a tenant. */
export async function listTiersAcrossTenants(db: Db) {
  return db.selectFrom('tiers').selectAll().orderBy('max_agents').orderBy('name').execute();
}

export async function readTierAcrossTenants(db: Db, name: string) {
  return db.selectFrom('tiers').selectAll().where('name', '=', name).executeTakeFirst();
}
