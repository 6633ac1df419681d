import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { TurnUsage } from '../../gateway/stream.js';

type Db = Kysely<Schema>;

export interface NewTurn {
  id: string;
  agentId: string;
  /** null: stateless. */
  conversationId: string | null;
  processId: string;
  messages: unknown[];
}

export async function insertTurn(db: Db, userId: string, turn: NewTurn): Promise<void> {
  await db.insertInto('turns').values(turnRow(userId, turn)).execute();
}

/** A new conversation and its first turn in one statement. */
export async function insertConversationAndTurn(
  db: Db,
  userId: string,
  turn: NewTurn & { conversationId: string },
): Promise<void> {
  await db
    .with('conversation', (qb) =>
      qb
        .insertInto('conversations')
        .values({ id: turn.conversationId, user_id: userId, agent_id: turn.agentId, external_user: null })
        .returning('id'),
    )
    .insertInto('turns')
    .values(turnRow(userId, turn))
    .execute();
}

function turnRow(userId: string, turn: NewTurn) {
  return {
    id: turn.id,
    user_id: userId,
    agent_id: turn.agentId,
    conversation_id: turn.conversationId,
    process_id: turn.processId,
    // PostgreSQL's jsonb holds every character but NUL.
    messages: JSON.stringify(turn.messages).replaceAll('\\u0000', '\\ufffd'),
    reply: null,
    error: null,
    prompt_tokens: null,
    completion_tokens: null,
    ended_at: null,
  };
}

export async function settleTurn(
  db: Db,
  userId: string,
  turnId: string,
  end: { status: 'finished' | 'failed' | 'cancelled'; reply: string; error: string | null; usage: TurnUsage | undefined },
): Promise<void> {
  await db
    .updateTable('turns')
    .set({
      status: end.status,
      reply: end.reply.replaceAll('\0', '\ufffd'),
      error: end.error,
      prompt_tokens: end.usage?.prompt_tokens ?? null,
      completion_tokens: end.usage?.completion_tokens ?? null,
      ended_at: sql<Date>`now()`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', turnId)
    .execute();
}

export async function findConversation(db: Db, userId: string, agentId: string, conversationId: string) {
  return db
    .selectFrom('conversations')
    .select(['id', 'memory_key'])
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('id', '=', conversationId)
    .executeTakeFirst();
}

/** The conversation that an OpenAI client's `user` field names, made where there is none. */
export async function conversationOfExternalUser(
  db: Db,
  userId: string,
  agentId: string,
  externalUser: string,
  newConversationId: string,
): Promise<{ id: string; memory_key: string | null }> {
  const row = await db
    .insertInto('conversations')
    .values({ id: newConversationId, user_id: userId, agent_id: agentId, external_user: externalUser })
    .onConflict((oc) => oc.columns(['agent_id', 'external_user']).doUpdateSet({ external_user: externalUser }))
    .returning(['id', 'memory_key'])
    .executeTakeFirstOrThrow();
  return row;
}

/** Turns whose process is dead, so that nobody else will settle them. */
export async function settleAbandonedAcrossTenants(db: Db): Promise<void> {
  await db
    .updateTable('turns')
    .set({ status: 'failed', error: 'the process that relayed the turn died', ended_at: sql<Date>`now()` })
    .where('status', '=', 'running')
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('processes as p')
            .select('p.id')
            .whereRef('p.id', '=', 'turns.process_id')
            .where('p.heartbeat_at', '>', sql<Date>`now() - interval '60 seconds'`),
        ),
      ),
    )
    .execute();
}

export async function deleteConversations(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('turns').where('user_id', '=', userId).execute();
  await db.deleteFrom('conversations').where('user_id', '=', userId).execute();
}
