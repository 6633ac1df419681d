import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';

type Db = Kysely<Schema>;
export type ConversationRow = NonNullable<Awaited<ReturnType<typeof findConversationOf>>>;
export type MessagesRow = Awaited<ReturnType<typeof listTurns>>[number];

/** Which conversations: of one agent, by its id, or of all; those in which all these words were said. */
export interface ConversationFilter {
  agentId: string | undefined;
  words: string | undefined;
}

function conversationsOf(db: Db, userId: string) {
  return db
    .selectFrom('conversations as c')
    .innerJoin('agents as a', 'a.id', 'c.agent_id')
    .select([
      'c.id',
      'c.agent_id',
      'a.name as agent',
      'c.title',
      'c.external_user',
      'c.memory_key',
      'c.created_at',
      'c.last_turn_at',
    ])
    .where('c.user_id', '=', userId);
}

/** Those that were used last come first. */
export async function listConversations(db: Db, userId: string, { agentId, words }: ConversationFilter, page: PageRequest) {
  let query = conversationsOf(db, userId);
  if (agentId !== undefined) query = query.where('c.agent_id', '=', agentId);
  if (words !== undefined) query = query.where('c.id', 'in', saidIn(db, userId, words));
  if (page.after !== undefined)
    query = query.where(
      sql<boolean>`(c.last_turn_at, c.id) < (select k.last_turn_at, k.id from conversations k where k.user_id = ${userId} and k.id = ${page.after})`,
    );
  return query
    .orderBy('c.last_turn_at', 'desc')
    .orderBy('c.id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

/** The user is one of the words of each turn, so that what other tenants say costs a search nothing. */
function saidIn(db: Db, userId: string, words: string) {
  return db
    .selectFrom('turns')
    .select('conversation_id')
    .where('user_id', '=', userId)
    .where('conversation_id', 'is not', null)
    .where(sql<boolean>`numnode(plainto_tsquery('simple', ${words})) > 0`)
    .where(sql<boolean>`words @@ (quote_literal(${userId}::text)::tsquery && plainto_tsquery('simple', ${words}))`);
}

export async function findConversationOf(db: Db, userId: string, conversationId: string, agentId?: string) {
  let query = conversationsOf(db, userId).where('c.id', '=', conversationId);
  if (agentId !== undefined) query = query.where('c.agent_id', '=', agentId);
  return query.executeTakeFirst();
}

export async function insertConversation(
  db: Db,
  userId: string,
  row: { id: string; agent_id: string; title: string | null },
): Promise<void> {
  await db
    .insertInto('conversations')
    .values({ ...row, user_id: userId, external_user: null })
    .execute();
}

export async function renameConversation(db: Db, userId: string, conversationId: string, title: string | null): Promise<void> {
  await db.updateTable('conversations').set({ title }).where('user_id', '=', userId).where('id', '=', conversationId).execute();
}

/** The turns of a conversation, by their age. */
export async function listTurns(db: Db, userId: string, conversationId: string, page: PageRequest, order: 'asc' | 'desc') {
  let query = db
    .selectFrom('turns')
    .select(['id', 'status', 'messages', 'reply', 'error', 'created_at', 'ended_at'])
    .where('conversation_id', '=', conversationId)
    .where('user_id', '=', userId);
  if (page.after !== undefined) query = query.where('id', order === 'asc' ? '>' : '<', page.after);
  return query
    .orderBy('id', order)
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

/** Deletes a conversation and all its turns, and notes that its agent's instance has to forget it too. */
export async function deleteConversation(
  db: Db,
  userId: string,
  { id, agent_id, memory_key }: Pick<ConversationRow, 'id' | 'agent_id' | 'memory_key'>,
): Promise<void> {
  await db.deleteFrom('turns').where('conversation_id', '=', id).where('user_id', '=', userId).execute();
  await db.deleteFrom('conversations').where('id', '=', id).where('user_id', '=', userId).execute();
  await db
    .insertInto('forgotten_conversations')
    .values({ conversation_id: id, memory_key: memory_key ?? id, user_id: userId, agent_id })
    .onConflict((oc) => oc.doNothing())
    .execute();
}

/** Deleted conversations of which an instance that is up may still keep something, those tried longest ago first. */
export async function takeForgottenAcrossTenants(db: Db, limit: number) {
  const some = db
    .selectFrom('forgotten_conversations as f')
    .innerJoin('agents as a', 'a.id', 'f.agent_id')
    .select('f.conversation_id')
    .where(({ exists, selectFrom }) =>
      exists(
        selectFrom('instances as i')
          .select('i.id')
          .whereRef('i.deployment_id', '=', 'a.deployment_id')
          .where('i.ended_at', 'is', null),
      ),
    )
    .orderBy('f.tried_at')
    .limit(limit);
  return db
    .updateTable('forgotten_conversations')
    .set({ tried_at: sql<Date>`now()` })
    .where('conversation_id', 'in', some)
    .returning(['conversation_id', 'memory_key', 'user_id', 'agent_id'])
    .execute();
}

export async function isForgotten(db: Db, userId: string, conversationId: string): Promise<void> {
  await db
    .deleteFrom('forgotten_conversations')
    .where('user_id', '=', userId)
    .where('conversation_id', '=', conversationId)
    .execute();
}
