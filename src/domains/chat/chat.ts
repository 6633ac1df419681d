import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely, Transaction } from 'kysely';
import { isForeignKeyViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { GatewayClient, GatewayEvent } from '../../gateway/gateway.js';
import { AppError, NotSent } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { Log } from '../../lib/log.js';
import type { AgentRoute, Agents, Wait } from '../agents/agents.js';
import * as store from './chat.store.js';
import { readJournal, replaceJournal } from './journal.js';
import type { JournalLine } from './journal.schema.js';
import { RunningTurn, type TurnEnd } from './turn.js';
import { withRetryAfter } from './turn-error.js';

export interface ChatOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  gateway: GatewayClient;
  processId: string;
  /** How long a turn waits for an agent that is not ready. */
  readyTimeoutMs: number;
}

/**
 * What a caller says. Exactly one of four kinds of memory: a conversation of ours, an OpenAI client's `user`, none, or `apart`: a conversation
 * that is journaled and of which the instance keeps nothing, so that the caller says each time all that is to be known.
 */
export interface TurnWish {
  messages: unknown[];
  memory: { kind: 'conversation' | 'apart'; id: string | undefined } | { kind: 'external'; user: string } | { kind: 'none' };
  sampling?: Record<string, unknown>;
}

/** A turn that is known to be allowed and has a place to go, but has not begun. */
export interface PreparedTurn {
  turnId: string;
  userId: string;
  agent: string;
  conversationId: string | null;
  isNewConversation: boolean;
  /** What the gateway knows the conversation by. */
  memoryKey: string | null;
  route: AgentRoute;
  wish: TurnWish;
}

/** How long a turn that was refused stays away from what refused it. */
const AGAIN_MS = 250;

/** Turns: prepared, begun on the agent's instance, relayed, and journaled from before their first word to their end. */
export class Chat {
  readonly #options: ChatOptions;
  readonly #db: Kysely<Schema>;

  constructor(options: ChatOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** Checks all that can be wrong before anything is begun: `not_found` for the agent or its conversation. */
  async prepare(userId: string, agent: string, wish: TurnWish): Promise<PreparedTurn> {
    const route = await this.#options.agents.route(userId, agent);
    this.#options.agents.refuseStopped(route);
    const { id: conversationId, memoryKey, isNew } = await this.#conversation(userId, route.agentId, wish.memory);
    const conversation = { conversationId, memoryKey, isNewConversation: isNew };
    return { turnId: newId('trn'), userId, agent: route.name, ...conversation, route, wish };
  }

  /**
   * Waits for the agent where it is not ready (`onWaiting` is told, and again when the reason changes), at most `readyTimeoutMs`, then `unavailable`; writes the journal and
   * asks the gateway. A turn that the gateway has surely not begun, as where its link had just closed, is asked for again in that time; one
   * that may have begun never is. Aborting `signal` cancels the turn all the way to the provider, now and while it runs.
   */
  async begin(prepared: PreparedTurn, signal: AbortSignal, onWaiting?: Wait['onWaiting']): Promise<RunningTurn> {
    const { readyTimeoutMs: timeoutMs, agents } = this.#options;
    const wait: Wait = { deadline: performance.now() + timeoutMs, timeoutMs, signal, onWaiting };
    let { instanceId } = await agents.reachFrom(prepared.userId, prepared.route, wait);
    const opened = this.#openJournal(prepared);
    // A turn without a row in the journal must not go on: the signal that the gateway gets is one that can say so.
    const cancel = new AbortController();
    const joined = joinSignals(signal, cancel.signal);
    const settle = (end: TurnEnd) => {
      joined.release();
      return store.settleTurn(this.#db, prepared.userId, prepared.turnId, end);
    };
    try {
      for (;;) {
        // The journal's row and the gateway's first word come at the same time; nothing is relayed before both are there.
        const [events] = await Promise.all([this.#ask(instanceId, prepared, joined.signal).catch(ifNotSent), opened]);
        if (!(events instanceof NotSent)) return new RunningTurn({ prepared, events, settle, signal, log: this.#options.log });
        instanceId = await this.#reachAgain(prepared, wait, events);
      }
    } catch (error) {
      cancel.abort(error);
      const status = signal.aborted ? 'cancelled' : 'failed';
      await opened.then(() =>
        settle({ status, reply: '', error: error instanceof AppError ? error.message : 'internal error', usage: undefined }),
      );
      throw error instanceof AppError ? withRetryAfter(error) : error;
    }
  }

  /** Settles turns that dead processes left running. */
  settleAbandoned(): Promise<void> {
    return store.settleAbandonedAcrossTenants(this.#db);
  }

  /** The agent's journal, to be kept elsewhere. */
  journal(userId: string, agentId: string): AsyncGenerator<JournalLine> {
    return readJournal(this.#db, userId, agentId);
  }

  /** Makes the agent's journal say just that (journal.ts); answers how many turns it says no more. */
  replaceJournal(...of: Parameters<typeof replaceJournal>): Promise<number> {
    return replaceJournal(...of);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteConversations(trx, userId);
  }

  async #conversation(
    userId: string,
    agentId: string,
    memory: TurnWish['memory'],
  ): Promise<{ id: string | null; memoryKey: string | null; isNew: boolean }> {
    if (memory.kind === 'none') return { id: null, memoryKey: null, isNew: false };
    if (memory.kind === 'external') {
      const { id, memory_key } = await this.#externalConversation(userId, agentId, memory.user);
      return { id, memoryKey: memory_key ?? id, isNew: false };
    }
    if (memory.id === undefined) {
      const id = newId('cnv');
      return { id, memoryKey: id, isNew: true };
    }
    const found = await store.findConversation(this.#db, userId, agentId, memory.id);
    if (found) return { id: found.id, memoryKey: found.memory_key ?? found.id, isNew: false };
    throw new AppError('not_found', 'conversation not found');
  }

  async #externalConversation(userId: string, agentId: string, externalUser: string) {
    try {
      return await store.conversationOfExternalUser(this.#db, userId, agentId, externalUser, newId('cnv'));
    } catch (error) {
      if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
      throw error;
    }
  }

  async #openJournal(prepared: PreparedTurn): Promise<void> {
    try {
      await this.#insertTurn(prepared);
    } catch (error) {
      // Deleted since it was found.
      if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
      throw error;
    }
  }

  #insertTurn(prepared: PreparedTurn): Promise<void> {
    const { turnId: id, userId, route, conversationId, wish } = prepared;
    const turn = { id, agentId: route.agentId, conversationId, processId: this.#options.processId, messages: wish.messages };
    if (prepared.isNewConversation && conversationId !== null)
      return store.insertConversationAndTurn(this.#db, userId, { ...turn, conversationId });
    return store.insertTurn(this.#db, userId, turn);
  }

  #ask(instanceId: string, prepared: PreparedTurn, signal: AbortSignal): Promise<AsyncGenerator<GatewayEvent>> {
    const { agent, turnId, memoryKey, wish } = prepared;
    const user = wish.memory.kind === 'apart' ? undefined : (memoryKey ?? undefined);
    const turn = { agent, turnId, messages: wish.messages, user, sampling: wish.sampling ?? {} };
    return this.#options.gateway.turn(instanceId, turn, signal);
  }

  /** After a refusal: looks at where the agent is by now, but not at once, since what refused may still look alive. */
  async #reachAgain(prepared: PreparedTurn, wait: Wait, refusal: NotSent): Promise<string> {
    if (performance.now() + AGAIN_MS > wait.deadline) throw refusal;
    await sleep(AGAIN_MS, undefined, { signal: wait.signal }).catch(() => wait.signal.throwIfAborted());
    const { agents } = this.#options;
    const route = await agents.route(prepared.userId, prepared.route.agentId);
    return (await agents.reachFrom(prepared.userId, route, wait)).instanceId;
  }
}

function ifNotSent(error: unknown): NotSent {
  if (error instanceof NotSent) return error;
  throw error;
}
