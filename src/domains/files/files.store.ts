import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** What the user's tier allows on disk; undefined where there is no such user. */
export async function diskLimitOf(db: Kysely<Schema>, userId: string): Promise<{ tier: string; diskMib: number } | undefined> {
  return db
    .selectFrom('users')
    .innerJoin('tiers', 'tiers.name', 'users.tier')
    .select(['tiers.name as tier', 'tiers.disk_mib as diskMib'])
    .where('users.id', '=', userId)
    .executeTakeFirst();
}
