import { type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;
/** Tables whose rows are wishes, worked on by whoever holds them. */
type Held = 'snapshots' | 'restores';

/** Takes up to `limit` that are to be done and that nobody works on; those that were never tried come first. */
export async function claimAcrossTenants<T extends Held>(
  db: Db,
  table: T,
  limit: number,
  holdS: number,
): Promise<Selectable<Schema[T]>[]> {
  const { rows } = await sql<Selectable<Schema[T]>>`
    update ${sql.table(table)} set held_until = now() + make_interval(secs => ${holdS})
    where id in (
      select w.id from ${sql.table(table)} w join users u on u.id = w.user_id
      where w.state = 'pending' and u.deleting_at is null and (w.held_until is null or w.held_until < now())
      order by w.held_until nulls first, w.id
      limit ${limit} for update of w skip locked
    )
    returning *`.execute(db);
  return rows;
}

/** Nobody else takes it up for so long; `reason`: why it waits. */
export async function hold(db: Db, userId: string, table: Held, id: string, holdS: number, reason?: string): Promise<void> {
  await sql`
    update ${sql.table(table)}
    set held_until = now() + make_interval(secs => ${holdS}), reason = coalesce(${reason ?? null}::text, reason)
    where user_id = ${userId} and id = ${id} and state = 'pending'`.execute(db);
}
