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
  instanceId: string | null;
  /** Of a turn whose events are written down. */
  kept?: { resumable: boolean; once: Once | undefined };
}

/** A request that must be carried out once: digests of what names it, and of what it says. */
export interface Once {
  key: string;
  body: string;
}

export type OnBusy = 'queue' | 'reject' | 'interrupt';

/** A turn, of a conversation that there is or of none. */
export async function insertTurn(db: Db, userId: string, turn: NewTurn): Promise<void> {
  const { conversationId } = turn;
  if (conversationId === null) await db.insertInto('turns').values(turnRow(userId, turn)).execute();
  else
    await db
      .with('conversation', (qb) =>
        qb
          .updateTable('conversations')
          .set({ last_turn_at: sql<Date>`now()`, title: sql<string | null>`coalesce(title, ${titleOf(turn.messages)})` })
          .where('user_id', '=', userId)
          .where('id', '=', conversationId),
      )
      .insertInto('turns')
      .values(turnRow(userId, turn))
      .execute();
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
        .values({
          id: turn.conversationId,
          user_id: userId,
          agent_id: turn.agentId,
          external_user: null,
          title: titleOf(turn.messages),
        })
        .returning('id'),
    )
    .insertInto('turns')
    .values(turnRow(userId, turn))
    .execute();
}

const TITLE_CHARS = 80;

/** The beginning of what the user said first. */
function titleOf(messages: unknown[]): string | null {
  const first = (messages as { role?: unknown; content?: unknown }[]).find(({ role }) => role === 'user')?.content;
  const parts = Array.isArray(first) ? (first as { text?: unknown }[]) : [];
  const text =
    typeof first === 'string' ? first : parts.map((part) => (typeof part.text === 'string' ? part.text : '')).join(' ');
  const line = text.slice(0, 1_000).replaceAll('\0', '').replace(/\s+/g, ' ').trim();
  return line === '' ? null : Array.from(line).slice(0, TITLE_CHARS).join('');
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
    instance_id: turn.instanceId,
    ...(turn.kept === undefined
      ? {}
      : {
          kept: true,
          resumable: turn.kept.resumable,
          once_key: turn.kept.once?.key ?? null,
          once_body: turn.kept.once?.body ?? null,
        }),
  };
}

export interface TurnSettlement {
  status: 'finished' | 'failed' | 'cancelled';
  reply: string;
  error: string | null;
  errorCode?: string | null;
  finishReason?: string | null;
  usage: TurnUsage | undefined;
  /** Whether a request with the same `Idempotency-Key` may be carried out after all. */
  mayRunAgain?: boolean;
}

/** Ends a turn that runs; false where another has ended it, or it is gone. */
export async function settleTurn(db: Db, userId: string, turnId: string, end: TurnSettlement): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('turns')
    .set({
      status: end.status,
      reply: end.reply.replaceAll('\0', '\ufffd'),
      error: end.error,
      error_code: end.errorCode ?? null,
      finish_reason: end.finishReason ?? null,
      prompt_tokens: end.usage?.prompt_tokens ?? null,
      completion_tokens: end.usage?.completion_tokens ?? null,
      ended_at: sql<Date>`now()`,
      words: wordsOf(end.reply),
      ...(end.mayRunAgain ? { once_key: null } : {}),
    })
    .where('user_id', '=', userId)
    .where('id', '=', turnId)
    .where('status', '=', 'running')
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}

/** Longest text of a turn that is searched, its messages and its reply each. */
const SEARCHED_CHARS = 100_000;

/** The words of a turn, its user's id among them, which makes a search in them one of that user's alone. */
function wordsOf(reply: string) {
  const told = sql`(select string_agg(case when jsonb_typeof(e) = 'string' then e #>> '{}' else e ->> 'text' end, ' ')
    from jsonb_path_query(messages, '$[*] ? (@.role == "user").content') as c, jsonb_path_query(c, '$[*]') as e)`;
  const said = reply.slice(0, SEARCHED_CHARS).replaceAll('\0', '\ufffd');
  return sql<string | null>`case when conversation_id is null then null else
    to_tsvector('simple', left(coalesce(${told}, ''), ${sql.lit(SEARCHED_CHARS)}) || ' ' || ${said}::text) || array_to_tsvector(array[user_id]) end`;
}

/** What the newest config of an agent says of messages that come while a turn runs; null where it says nothing. */
function onBusyOf(agentId: string) {
  return sql<OnBusy | null>`(select document->>'on_busy' from agent_configs where agent_id = ${agentId} order by version desc limit 1)`;
}

/** A conversation with that agent, how many of its turns run, and what is to become of another. */
export async function findConversation(db: Db, userId: string, agentId: string, conversationId: string) {
  return db
    .selectFrom('conversations as c')
    .select((eb) => [
      'c.id',
      'c.memory_key',
      eb
        .selectFrom('turns as t')
        .select(eb.fn.countAll<string>().as('n'))
        .whereRef('t.conversation_id', '=', 'c.id')
        .where('t.status', '=', 'running')
        .as('running'),
      onBusyOf(agentId).as('on_busy'),
    ])
    .where('c.user_id', '=', userId)
    .where('c.agent_id', '=', agentId)
    .where('c.id', '=', conversationId)
    .executeTakeFirst();
}

/** Holds a conversation until the end of the transaction, so that one turn after the other is let into it. */
export async function lockConversation(db: Db, userId: string, conversationId: string): Promise<void> {
  await db
    .selectFrom('conversations')
    .select('id')
    .where('user_id', '=', userId)
    .where('id', '=', conversationId)
    .forUpdate()
    .execute();
}

/** The conversation that an OpenAI client's `user` field names, made where there is none. */
export async function conversationOfExternalUser(
  db: Db,
  userId: string,
  agentId: string,
  externalUser: string,
  newConversationId: string,
): Promise<{ id: string; memory_key: string | null; on_busy: OnBusy | null }> {
  const row = await db
    .insertInto('conversations')
    .values({ id: newConversationId, user_id: userId, agent_id: agentId, external_user: externalUser })
    .onConflict((oc) => oc.columns(['agent_id', 'external_user']).doUpdateSet({ external_user: externalUser }))
    .returning(['id', 'memory_key', onBusyOf(agentId).as('on_busy')])
    .executeTakeFirstOrThrow();
  return row;
}

/** Turns whose process is dead, so that nobody else will settle them. Kept ones are taken over instead. */
export async function settleAbandonedAcrossTenants(db: Db) {
  return db
    .updateTable('turns')
    .set({
      status: 'failed',
      error: 'the process that relayed the turn died',
      error_code: 'unavailable',
      ended_at: sql<Date>`now()`,
    })
    .where('status', '=', 'running')
    .where('kept', '=', false)
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
    .returning(['id', 'user_id', 'agent_id', 'conversation_id'])
    .execute();
}

export async function deleteConversations(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('forgotten_conversations').where('user_id', '=', userId).execute();
  await db.deleteFrom('turns').where('user_id', '=', userId).execute();
  await db.deleteFrom('conversations').where('user_id', '=', userId).execute();
}
