import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;
export type TurnRow = NonNullable<Awaited<ReturnType<typeof findTurn>>>;

const COLUMNS = [
  't.id',
  't.user_id',
  't.agent_id',
  'a.name as agent',
  't.conversation_id',
  't.status',
  't.kept',
  't.resumable',
  't.instance_id',
  't.cancel_at',
  't.reply',
  't.error',
  't.error_code',
  't.finish_reason',
  't.prompt_tokens',
  't.completion_tokens',
  't.once_body',
  't.created_at',
  't.ended_at',
] as const;

/** A turn of the user; of that agent, by its id, where one is named. */
export async function findTurn(db: Db, userId: string, turnId: string, agentId?: string) {
  return db
    .selectFrom('turns as t')
    .innerJoin('agents as a', 'a.id', 't.agent_id')
    .select(COLUMNS)
    .where('t.user_id', '=', userId)
    .where('t.id', '=', turnId)
    .$if(agentId !== undefined, (qb) => qb.where('t.agent_id', '=', agentId ?? ''))
    .executeTakeFirst();
}

/** The turn that a request with that key has begun. */
export async function findTurnOnce(db: Db, userId: string, key: string) {
  return db
    .selectFrom('turns as t')
    .innerJoin('agents as a', 'a.id', 't.agent_id')
    .select(COLUMNS)
    .where('t.user_id', '=', userId)
    .where('t.once_key', '=', key)
    .executeTakeFirst();
}

/** Says who is about to be asked. False where the turn is to end, or has ended, or is gone: nobody is to be asked then. */
export async function markAsked(db: Db, userId: string, turnId: string, instanceId: string): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('turns')
    .set({ instance_id: instanceId })
    .where('user_id', '=', userId)
    .where('id', '=', turnId)
    .where('status', '=', 'running')
    .where('cancel_at', 'is', null)
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}

/** Says that a turn that runs is to end. */
export async function requestCancel(db: Db, userId: string, turnId: string): Promise<void> {
  await db
    .updateTable('turns')
    .set({ cancel_at: sql<Date>`coalesce(cancel_at, now())` })
    .where('user_id', '=', userId)
    .where('id', '=', turnId)
    .where('status', '=', 'running')
    .execute();
}

/** The turns of a conversation that run. */
export async function runningIn(db: Db, userId: string, conversationId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('turns')
    .select('id')
    .where('conversation_id', '=', conversationId)
    .where('user_id', '=', userId)
    .where('status', '=', 'running')
    .execute();
  return rows.map(({ id }) => id);
}

/** Model calls of a turn, in the order in which they were begun. */
export async function readCalls(db: Db, userId: string, turnId: string) {
  return db
    .selectFrom('usage')
    .select(['model', 'status', 'attempt', 'prompt_tokens', 'completion_tokens', 'started_at', 'ended_at'])
    .where('turn_id', '=', turnId)
    .where('user_id', '=', userId)
    .orderBy('started_at')
    .orderBy('id')
    .limit(200)
    .execute();
}

/** Whether the instance is over, so that no turn on it can go on. */
export async function hasInstanceEnded(db: Db, userId: string, instanceId: string): Promise<boolean> {
  const row = await db
    .selectFrom('instances')
    .select('ended_at')
    .where('user_id', '=', userId)
    .where('id', '=', instanceId)
    .executeTakeFirst();
  return row === undefined || row.ended_at !== null;
}

/** How long a process may be silent before its turns are taken over; a needless takeover does no harm. */
export interface Takeover {
  processId: string;
  deadAfterS: number;
  limit: number;
  /** This one alone, whoever has it. */
  turnId?: string;
}

/** Takes over kept turns of processes that are dead. */
export async function adoptAcrossTenants(db: Db, { processId, deadAfterS, limit, turnId }: Takeover) {
  const orphans = db
    .selectFrom('turns as t')
    .select('t.id')
    .where('t.status', '=', 'running')
    .where('t.kept', '=', true)
    .where('t.process_id', '<>', processId)
    .$if(turnId !== undefined, (qb) => qb.where('t.id', '=', turnId ?? ''))
    .$if(turnId === undefined, (qb) =>
      qb.where(({ not, exists, selectFrom }) =>
        not(
          exists(
            selectFrom('processes as p')
              .select('p.id')
              .whereRef('p.id', '=', 't.process_id')
              .where('p.heartbeat_at', '>', sql<Date>`now() - make_interval(secs => ${deadAfterS})`),
          ),
        ),
      ),
    )
    .orderBy('t.created_at')
    .limit(limit)
    .forUpdate()
    .skipLocked();
  return db
    .updateTable('turns')
    .set({ process_id: processId })
    .where('id', 'in', orphans)
    .where('status', '=', 'running')
    .returning(['id', 'user_id', 'agent_id', 'conversation_id', 'resumable', 'instance_id', 'cancel_at', 'messages'])
    .execute();
}

/** Old keys may be used again. */
export async function forgetKeysAcrossTenants(db: Db, keptS: number): Promise<void> {
  await db
    .updateTable('turns')
    .set({ once_key: null, once_body: null })
    .where('once_key', 'is not', null)
    .where('status', '<>', 'running')
    .where('created_at', '<', sql<Date>`now() - make_interval(secs => ${keptS})`)
    .execute();
}
