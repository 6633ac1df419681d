import type { Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEventsAcrossTenants, type NewEvent } from '../../events/outbox.js';
import type { By } from './history.js';

/** Why a deployment that rests is woken: for what, or since something in it works after all. */
export type WakeCause = 'turn' | 'files' | 'context' | 'snapshot' | 'asked' | 'busy';

/** Why it rests: nobody used it, or others need its memory. */
export type RestCause = 'idle' | 'room';

/** A deployment, and whose it is. Nobody is told of one that is nobody's. */
interface Owned {
  id: string;
  user_id: string | null;
}

/** That one is woken, where that is one statement with the waking. */
export function wokenEvent(deploymentId: string, cause: WakeCause): NewEvent {
  return { type: 'deployment.woken', ...BY_ITSELF, payload: { deployment_id: deploymentId, cause } };
}

/** Each of these is the last of the transaction that makes it true. */
export function sayWoken(trx: Transaction<Schema>, woken: Owned[], cause: WakeCause): Promise<void> {
  return say(
    trx,
    woken,
    () => 'deployment.woken',
    BY_ITSELF,
    () => ({ cause }),
  );
}

export function sayResting<Row extends Owned & { rest: 'paused' | 'stopped' | null }>(
  trx: Transaction<Schema>,
  rested: Row[],
  cause: RestCause,
): Promise<void> {
  return say(
    trx,
    rested,
    ({ rest }) => `deployment.${rest}`,
    BY_ITSELF,
    () => ({ cause }),
  );
}

/** Null: the usual one. */
export function sayImages(trx: Transaction<Schema>, changed: (Owned & { image: string | null })[], by: By): Promise<void> {
  return say(
    trx,
    changed,
    () => 'deployment.image_changed',
    by,
    ({ image }) => ({ image, reason: by.reason ?? null }),
  );
}

const BY_ITSELF: By = { actor: 'deployments', requestId: null };

async function say<Row extends Owned>(
  trx: Transaction<Schema>,
  rows: Row[],
  typeOf: (row: Row) => string,
  { actor, requestId }: By,
  what: (row: Row) => Record<string, unknown>,
): Promise<void> {
  const events = rows.flatMap((row) => {
    const payload = { deployment_id: row.id, ...what(row) };
    return row.user_id === null ? [] : [{ userId: row.user_id, type: typeOf(row), actor, requestId, payload }];
  });
  await appendEventsAcrossTenants(trx, events);
}
