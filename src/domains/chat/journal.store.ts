import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { JournalConversation, JournalLine, JournalTurn } from './journal.schema.js';

type Db = Kysely<Schema>;

/** Some of an agent's conversations, after that one. */
export async function conversationsAfter(
  db: Db,
  userId: string,
  agentId: string,
  after: string,
  limit: number,
): Promise<JournalLine[]> {
  const rows = await db
    .selectFrom('conversations')
    .select(['id', 'external_user', 'created_at', sql<string>`coalesce(memory_key, id)`.as('memory_key')])
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map(({ created_at, ...row }) => ({ conversation: { ...row, created_at: created_at.toISOString() } }));
}

/** Some of an agent's turns that have ended, after that one. */
export async function turnsAfter(db: Db, userId: string, agentId: string, after: string, limit: number): Promise<JournalLine[]> {
  const rows = await db
    .selectFrom('turns')
    .select(['id', 'conversation_id', 'status', 'messages', 'reply', 'error', 'prompt_tokens', 'completion_tokens'])
    .select(['created_at', 'ended_at'])
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('status', '<>', 'running')
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map(({ status, created_at, ended_at, ...row }) => ({
    turn: {
      ...row,
      status: status === 'running' ? 'failed' : status,
      created_at: created_at.toISOString(),
      ended_at: ended_at?.toISOString() ?? null,
    },
  }));
}

export async function deleteTurns(db: Db, userId: string, agentId: string): Promise<Set<string>> {
  const rows = await db
    .deleteFrom('turns')
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .returning('id')
    .execute();
  return new Set(rows.map(({ id }) => id));
}

/** Those that are there already stay as they are; whatever else was found by an OpenAI client's `user` is found by it no more. */
export async function insertConversations(
  db: Db,
  userId: string,
  agentId: string,
  conversations: JournalConversation[],
): Promise<void> {
  const named = conversations.flatMap(({ external_user }) => external_user ?? []);
  if (named.length > 0)
    await db
      .updateTable('conversations')
      .set({ external_user: null })
      .where('user_id', '=', userId)
      .where('agent_id', '=', agentId)
      .where('external_user', 'in', named)
      .where(
        'id',
        'not in',
        conversations.map(({ id }) => id),
      )
      .execute();
  await db
    .insertInto('conversations')
    .values(conversations.map((one) => ({ ...one, created_at: new Date(one.created_at), user_id: userId, agent_id: agentId })))
    .onConflict((oc) => oc.doNothing())
    .execute();
}

export async function insertTurns(db: Db, userId: string, agentId: string, turns: JournalTurn[]): Promise<void> {
  await db
    .insertInto('turns')
    .values(
      turns.map((turn) => ({
        ...turn,
        created_at: new Date(turn.created_at),
        ended_at: turn.ended_at === null ? null : new Date(turn.ended_at),
        reply: turn.reply?.replaceAll('\0', '\ufffd') ?? null,
        // PostgreSQL's jsonb holds every character but NUL.
        messages: JSON.stringify(turn.messages).replaceAll('\\u0000', '\\ufffd'),
        user_id: userId,
        agent_id: agentId,
        process_id: '',
      })),
    )
    .execute();
}
