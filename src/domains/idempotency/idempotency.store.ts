import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** What names a row, and the run that claims it. */
export interface Claim {
  caller: string;
  route: string;
  key_digest: string;
  attempt: string;
}

const lease = (leaseS: number) => sql<Date>`now() + make_interval(secs => ${leaseS})`;
const before = (seconds: number) => sql<Date>`now() - make_interval(secs => ${seconds})`;

/**
 * Claims the row for this run: a new one, one whose run died (same body), or one that is older than `keptS`. False where another
 * holds it.
 */
export async function claim(
  db: Db,
  userId: string | null,
  row: Claim & { body_digest: string },
  { leaseS, keptS }: { leaseS: number; keptS: number },
): Promise<boolean> {
  const values = { ...row, user_id: userId, state: 'running' as const, lease_until: lease(leaseS), status: null, answer: null };
  const taken = await db
    .insertInto('idempotency_keys')
    .values(values)
    .onConflict((oc) =>
      oc
        .columns(['caller', 'route', 'key_digest'])
        .doUpdateSet({ ...values, created_at: sql`now()` })
        .where((eb) =>
          eb.or([
            eb('idempotency_keys.created_at', '<', before(keptS)),
            eb.and([
              eb('idempotency_keys.state', '=', 'running'),
              eb('idempotency_keys.lease_until', '<', sql<Date>`now()`),
              eb('idempotency_keys.body_digest', '=', row.body_digest),
            ]),
          ]),
        ),
    )
    .returning('attempt')
    .executeTakeFirst();
  return taken !== undefined;
}

export async function findClaimed(db: Db, userId: string | null, row: Omit<Claim, 'attempt'>) {
  return (
    db
      .selectFrom('idempotency_keys')
      .select(['state', 'body_digest', 'status', 'answer'])
      .where('caller', '=', row.caller)
      .where('route', '=', row.route)
      .where('key_digest', '=', row.key_digest)
      // Of a request that named nobody the answer may have: the row went to the user whom it made.
      .where((eb) => (userId === null ? eb.lit(true) : eb('user_id', '=', userId)))
      .executeTakeFirst()
  );
}

/** Changes the row if this run still holds it. */
export async function settle(
  db: Db,
  userId: string | null,
  row: Claim,
  change: { state: 'done'; status: number; answer: Buffer | null; user_id: string | null } | { leaseS: number },
): Promise<void> {
  await db
    .updateTable('idempotency_keys')
    .set('leaseS' in change ? { lease_until: lease(change.leaseS) } : { ...change, lease_until: null })
    .where('caller', '=', row.caller)
    .where('route', '=', row.route)
    .where('key_digest', '=', row.key_digest)
    .where('user_id', 'is not distinct from', userId)
    .where('attempt', '=', row.attempt)
    .where('state', '=', 'running')
    .execute();
}

export async function release(db: Db, userId: string | null, row: Claim): Promise<void> {
  await db
    .deleteFrom('idempotency_keys')
    .where('caller', '=', row.caller)
    .where('route', '=', row.route)
    .where('key_digest', '=', row.key_digest)
    .where('user_id', 'is not distinct from', userId)
    .where('attempt', '=', row.attempt)
    .execute();
}

/** What names a row with an answer. */
export type AnswerKey = Omit<Claim, 'attempt'>;

const sealedElsewhere = (keyId: Buffer) => sql<boolean>`answer is not null and substring(answer from 2 for 8) <> ${keyId}`;

/** Answers that are sealed under another master key than that. */
export async function countSealedElsewhereAcrossTenants(db: Db, keyId: Buffer): Promise<number> {
  const row = await db
    .selectFrom('idempotency_keys')
    .select((eb) => eb.fn.countAll().as('n'))
    .where(sealedElsewhere(keyId))
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Some of them, held until the end of the transaction; those that another holds are passed over. */
export async function takeSealedElsewhereAcrossTenants(db: Db, keyId: Buffer, atMost: number) {
  return db
    .selectFrom('idempotency_keys')
    .select(['caller', 'route', 'key_digest', 'answer'])
    .where(sealedElsewhere(keyId))
    .limit(atMost)
    .forUpdate()
    .skipLocked()
    .execute();
}

export async function setAnswerAcrossTenants(db: Db, row: AnswerKey, answer: Buffer | null): Promise<void> {
  await db
    .updateTable('idempotency_keys')
    .set({ answer })
    .where('caller', '=', row.caller)
    .where('route', '=', row.route)
    .where('key_digest', '=', row.key_digest)
    .execute();
}

/** Deletes up to `atMost` rows that are older than that; returns how many. */
export async function pruneAcrossTenants(db: Db, keptS: number, atMost: number): Promise<number> {
  const old = db
    .selectFrom('idempotency_keys')
    .select(sql<string>`ctid`.as('at'))
    .where('created_at', '<', before(keptS))
    .limit(atMost);
  const { numDeletedRows } = await db
    .deleteFrom('idempotency_keys')
    .where(sql<string>`ctid`, 'in', old)
    .executeTakeFirst();
  return Number(numDeletedRows);
}
