import type { Kysely } from 'kysely';
import { isForeignKeyViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { ConversationsClient } from '../../gateway/conversations.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { isId, newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import { type Page, pageOf, type PageRequest } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import type { Conversation, ConversationMessage } from './conversations.schema.js';
import * as store from './conversations.store.js';
import type { Turns } from './turns.js';
import { runningIn } from './turns.store.js';

export interface ConversationsOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  turns: Turns;
  client: ConversationsClient;
}

/** Whose conversations: all of the user, or of one agent by its name or id. */
export interface Whose {
  userId: string;
  agent?: string | undefined;
}

const SHOWN_TURNS = 50;
const EXPORT_TURNS_AT_ONCE = 100;
/** A longer conversation is read page by page. */
const EXPORT_LIMIT_CHARS = 32 * 1024 * 1024;
const FORGOTTEN_AT_ONCE = 50;

/** What was said, as the journal has it: that is the truth of a conversation. What instances keep is working memory, and is deleted along. */
export class Conversations {
  readonly #options: ConversationsOptions;
  readonly #db: Kysely<Schema>;

  constructor(options: ConversationsOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  async list({ userId, agent }: Whose, words: string | undefined, page: PageRequest): Promise<Page<Conversation>> {
    const agentId = await this.#agentId(userId, agent);
    const rows = await store.listConversations(this.#db, userId, { agentId, words }, page);
    return pageOf(rows, page, null, answerOf);
  }

  async get(whose: Whose, id: string): Promise<Conversation & { messages: ConversationMessage[] }> {
    const row = await this.#find(whose, id);
    const page = { after: undefined, offset: 0, limit: SHOWN_TURNS };
    const turns = await store.listTurns(this.#db, whose.userId, row.id, page, 'desc');
    return { ...answerOf(row), messages: turns.slice(0, SHOWN_TURNS).toReversed().flatMap(messagesOf) };
  }

  /** An empty one, for messages to come. */
  async create({ userId, agent }: Whose, title: string | undefined): Promise<Conversation> {
    const { agentId } = await this.#options.agents.route(userId, agent ?? '');
    const id = newId('cnv');
    try {
      await store.insertConversation(this.#db, userId, { id, agent_id: agentId, title: title ?? null });
    } catch (error) {
      if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
      throw error;
    }
    return answerOf(await this.#find({ userId }, id));
  }

  async rename(whose: Whose, id: string, title: string | null): Promise<Conversation> {
    const row = await this.#find(whose, id);
    await store.renameConversation(this.#db, whose.userId, row.id, title);
    return answerOf({ ...row, title });
  }

  /** Its messages, a page of turns at a time. */
  async messages(whose: Whose, id: string, page: PageRequest, order: 'asc' | 'desc'): Promise<Page<ConversationMessage>> {
    const row = await this.#find(whose, id);
    const turns = await store.listTurns(this.#db, whose.userId, row.id, page, order);
    const { data, pagination } = pageOf(turns, page, null, (turn) =>
      order === 'asc' ? messagesOf(turn) : messagesOf(turn).toReversed(),
    );
    return { data: data.flat(), pagination };
  }

  /** The agent of a conversation, for a message to it. */
  async agentOf(whose: Whose, id: string): Promise<string> {
    return (await this.#find(whose, id)).agent_id;
  }

  /** It is gone when this returns; what its agent's instance keeps of it follows at once, or as soon as that is up. */
  async delete(whose: Whose, id: string, caller: Caller, requestId: string): Promise<void> {
    const { userId } = whose;
    const row = await this.#find(whose, id);
    for (const turnId of await runningIn(this.#db, userId, row.id))
      await this.#options.turns.cancel(userId, row.agent_id, turnId);
    await this.#db.transaction().execute(async (trx) => {
      await store.deleteConversation(trx, userId, row);
      const payload = { agent_id: row.agent_id, conversation_id: row.id };
      await appendEvent(trx, userId, { type: 'conversation.deleted', actor: actorOf(caller), requestId, payload });
    });
    await this.#forget({
      conversation_id: row.id,
      memory_key: row.memory_key ?? row.id,
      user_id: userId,
      agent_id: row.agent_id,
    });
  }

  /** All of it in one piece. */
  async export(whose: Whose, id: string): Promise<{ conversation: Conversation; messages: ConversationMessage[] }> {
    const row = await this.#find(whose, id);
    const messages: ConversationMessage[] = [];
    let chars = 0;
    for (let after: string | undefined; ;) {
      const page = { after, offset: 0, limit: EXPORT_TURNS_AT_ONCE };
      const turns = await store.listTurns(this.#db, whose.userId, row.id, page, 'asc');
      for (const message of turns.slice(0, EXPORT_TURNS_AT_ONCE).flatMap(messagesOf)) {
        chars += JSON.stringify(message).length;
        if (chars > EXPORT_LIMIT_CHARS)
          throw new AppError('payload_too_large', 'the conversation is too long for one answer: read its messages page by page');
        messages.push(message);
      }
      if (turns.length <= EXPORT_TURNS_AT_ONCE) return { conversation: answerOf(row), messages };
      after = turns[EXPORT_TURNS_AT_ONCE - 1]?.id;
    }
  }

  /** Has instances that are up forget what was deleted while they were not. */
  async forgetDeleted(): Promise<void> {
    for (const row of await store.takeForgottenAcrossTenants(this.#db, FORGOTTEN_AT_ONCE)) await this.#forget(row);
  }

  async #forget({
    conversation_id: id,
    memory_key: memoryKey,
    user_id: userId,
    agent_id: agentId,
  }: Awaited<ReturnType<typeof store.takeForgottenAcrossTenants>>[number]): Promise<void> {
    try {
      const { instanceId, name } = await this.#options.agents.route(userId, agentId);
      if (instanceId === undefined || !this.#options.client.reaches(instanceId)) return;
      await this.#options.client.delete(instanceId, name, memoryKey);
      await store.isForgotten(this.#db, userId, id);
    } catch (error) {
      this.#options.log.info(
        { conversation: id, err: error },
        `an instance has yet to forget a conversation: ${messageOf(error)}`,
      );
    }
  }

  async #find({ userId, agent }: Whose, id: string): Promise<store.ConversationRow> {
    const agentId = await this.#agentId(userId, agent);
    const row = isId('cnv', id) ? await store.findConversationOf(this.#db, userId, id, agentId) : undefined;
    if (!row) throw new AppError('not_found', 'conversation not found');
    return row;
  }

  async #agentId(userId: string, agent: string | undefined): Promise<string | undefined> {
    return agent === undefined ? undefined : (await this.#options.agents.route(userId, agent)).agentId;
  }
}

function answerOf(row: store.ConversationRow): Conversation {
  const { id, agent, agent_id, title, created_at, last_turn_at } = row;
  return { id, agent, agent_id, title, created_at: created_at.toISOString(), last_turn_at: last_turn_at.toISOString() };
}

/** What a turn added to its conversation: what it was told, and its reply once it has ended. */
function messagesOf({ id, status, messages, reply, created_at, ended_at }: store.MessagesRow): ConversationMessage[] {
  const told = (messages as { role?: unknown; content?: unknown }[]).map((message) => ({
    turn_id: id,
    role: String(message.role),
    content: message.content,
    status,
    created_at: created_at.toISOString(),
  }));
  if (reply === null || ended_at === null) return told;
  return [...told, { turn_id: id, role: 'assistant', content: reply, status, created_at: ended_at.toISOString() }];
}

/** A conversation for people to read. */
export function markdownOf({ conversation, messages }: Awaited<ReturnType<Conversations['export']>>): string {
  const head = `# ${conversation.title ?? 'Conversation'}\n\nWith ${conversation.agent}, begun ${conversation.created_at}.\n`;
  const said = messages.map(({ role, content, created_at }) => `\n## ${role}, ${created_at}\n\n${textOf(content)}\n`);
  return head + said.join('');
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return content
    .map((part: { type?: unknown; text?: unknown }) => (part.type === 'text' ? String(part.text) : '[picture]'))
    .join('');
}
