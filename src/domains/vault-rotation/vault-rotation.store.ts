import { type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { RotationState, VaultRotationsTable } from './vault-rotation.table.js';

type Db = Kysely<Schema>;

/** Any number will do as long as it stays. */
const FILES_LOCK = 7_263_409_916;

export type RotationRow = Selectable<VaultRotationsTable>;

/** The rotation that runs, else the last one. */
export async function latestAcrossTenants(db: Db): Promise<RotationRow | undefined> {
  return db
    .selectFrom('vault_rotations')
    .selectAll()
    .orderBy(sql`state <> 'done'`, 'desc')
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirst();
}

/** The rotation that runs, held until the end of the transaction; undefined where there is none, or another process holds it. */
export async function holdAcrossTenants(db: Db): Promise<RotationRow | undefined> {
  return db.selectFrom('vault_rotations').selectAll().where('state', '<>', 'done').forUpdate().skipLocked().executeTakeFirst();
}

/** Begins one, unless one runs; answers whether it did. */
export async function beginAcrossTenants(db: Db, row: { id: string; from_key: string; to_key: string }): Promise<boolean> {
  const made = await db
    .insertInto('vault_rotations')
    .values(row)
    .onConflict((oc) => oc.doNothing())
    .returning('id')
    .executeTakeFirst();
  return made !== undefined;
}

export async function updateAcrossTenants(
  db: Db,
  id: string,
  change: { state?: RotationState; reason?: string | null; total?: number; sealedMore?: number },
): Promise<void> {
  const { sealedMore = 0, ...rest } = change;
  await db
    .updateTable('vault_rotations')
    .set({
      ...rest,
      sealed: sql<number>`sealed + ${sealedMore}`,
      updated_at: sql<Date>`now()`,
      ...(change.state === 'done' ? { ended_at: sql<Date>`now()` } : {}),
    })
    .where('id', '=', id)
    .execute();
}

/** Says which keys a process has; answers whether that is news. */
export async function reportAcrossTenants(db: Db, processId: string, known: string, sealing: string): Promise<boolean> {
  const row = await db
    .insertInto('vault_keyrings')
    .values({ process_id: processId, known, sealing })
    .onConflict((oc) =>
      oc
        .column('process_id')
        .doUpdateSet({ known, sealing, updated_at: sql<Date>`now()` })
        .where((eb) => eb.or([eb('vault_keyrings.known', '<>', known), eb('vault_keyrings.sealing', '<>', sealing)])),
    )
    .returning('process_id')
    .executeTakeFirst();
  return row !== undefined;
}

/** The processes that live, with the keys they have said to have. */
export async function keyringsAcrossTenants(db: Db, aliveS: number) {
  return db
    .selectFrom('processes as p')
    .leftJoin('vault_keyrings as k', 'k.process_id', 'p.id')
    .select(['p.id', 'k.known', 'k.sealing'])
    .where('p.heartbeat_at', '>', sql<Date>`now() - make_interval(secs => ${aliveS})`)
    .orderBy('p.id')
    .execute();
}

export async function forgetKeyringsAcrossTenants(db: Db): Promise<void> {
  await db
    .deleteFrom('vault_keyrings')
    .where('process_id', 'not in', (eb) => eb.selectFrom('processes').select('id'))
    .execute();
}

/** One process at a time changes the files of keys: it holds this until the end of its transaction. */
export async function holdFilesAcrossTenants(db: Db): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(FILES_LOCK)})`.execute(db);
}
