import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { News } from '../../events/news.js';
import type { GatewayClient } from '../../gateway/gateway.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import type { AgentRoute, Agents } from '../agents/agents.js';
import * as store from './chat.store.js';
import { RunningTurn } from './turn.js';

export interface ChatOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  agents: Agents;
  gateway: GatewayClient;
  processId: string;
  /** How long a turn waits for an agent that is not ready. */
  readyTimeoutMs: number;
}

/** What a caller says. Exactly one of the three kinds of memory: a conversation of ours, an OpenAI client's `user`, or none. */
export interface TurnWish {
  messages: unknown[];
  memory: { kind: 'conversation'; id: string | undefined } | { kind: 'external'; user: string } | { kind: 'none' };
  sampling?: Record<string, unknown>;
}

/** A turn that is known to be allowed and has a place to go, but has not begun. */
export interface PreparedTurn {
  turnId: string;
  userId: string;
  agent: string;
  conversationId: string | null;
  isNewConversation: boolean;
  route: AgentRoute;
  wish: TurnWish;
}

/** How often a waiting turn looks without having been told of a change. */
const READY_POLL_MS = 250;

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
    const { id: conversationId, isNew } = await this.#conversation(userId, route.agentId, wish.memory);
    return { turnId: newId('trn'), userId, agent: route.name, conversationId, isNewConversation: isNew, route, wish };
  }

  /**
   * Waits for the agent where it is not ready (`onWaiting` is told once), at most `readyTimeoutMs`, then `unavailable`; writes the journal and
   * asks the gateway. Aborting `signal` cancels the turn all the way to the provider, now and while it runs.
   */
  async begin(prepared: PreparedTurn, signal: AbortSignal, onWaiting?: (reason: string | null) => Promise<void> | undefined): Promise<RunningTurn> {
    const instanceId = await this.#reach(prepared, signal, onWaiting);
    const opened = this.#openJournal(prepared);
    const { gateway, log } = this.#options;
    const settle: ConstructorParameters<typeof RunningTurn>[0]['settle'] = (end) => store.settleTurn(this.#db, prepared.userId, prepared.turnId, end);
    try {
      const { agent, turnId, conversationId, wish } = prepared;
      const user = conversationId ?? undefined;
      // The journal's row and the gateway's first word come at the same time; nothing is relayed before both are there.
      const [events] = await Promise.all([gateway.turn(instanceId, { agent, turnId, messages: wish.messages, user, sampling: wish.sampling ?? {} }, signal), opened]);
      return new RunningTurn({ prepared, events, settle, signal, log });
    } catch (error) {
      const status = signal.aborted ? 'cancelled' : 'failed';
      await opened.then(() => settle({ status, reply: '', error: error instanceof AppError ? error.message : 'internal error', usage: undefined }));
      throw error;
    }
  }

  /** Settles turns that dead processes left running. */
  settleAbandoned(): Promise<void> {
    return store.settleAbandonedAcrossTenants(this.#db);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteConversations(trx, userId);
  }

  async #conversation(userId: string, agentId: string, memory: TurnWish['memory']): Promise<{ id: string | null; isNew: boolean }> {
    if (memory.kind === 'none') return { id: null, isNew: false };
    if (memory.kind === 'external') {
      return { id: await store.conversationOfExternalUser(this.#db, userId, agentId, memory.user, newId('cnv')), isNew: false };
    }
    if (memory.id === undefined) return { id: newId('cnv'), isNew: true };
    if (await store.findConversation(this.#db, userId, agentId, memory.id)) return { id: memory.id, isNew: false };
    throw new AppError('not_found', 'conversation not found');
  }

  #openJournal(prepared: PreparedTurn): Promise<void> {
    const { turnId: id, userId, route, conversationId, wish } = prepared;
    const turn = { id, agentId: route.agentId, conversationId, processId: this.#options.processId, messages: wish.messages };
    if (prepared.isNewConversation && conversationId !== null) return store.insertConversationAndTurn(this.#db, userId, { ...turn, conversationId });
    return store.insertTurn(this.#db, userId, turn);
  }

  async #reach(prepared: PreparedTurn, signal: AbortSignal, onWaiting?: (reason: string | null) => Promise<void> | undefined): Promise<string> {
    const now = this.#reachable(prepared.route);
    if (now !== undefined) return now;
    const news = new News(this.#options.bus, (id) => id === prepared.route.deploymentId, signal);
    try {
      await onWaiting?.(prepared.route.reason);
      return await this.#wait(prepared, news, signal);
    } finally {
      news.end();
    }
  }

  async #wait(prepared: PreparedTurn, news: News, signal: AbortSignal): Promise<string> {
    const { readyTimeoutMs, agents } = this.#options;
    const deadline = performance.now() + readyTimeoutMs;
    for (;;) {
      const route = await agents.route(prepared.userId, prepared.route.agentId);
      const instanceId = this.#reachable(route);
      if (instanceId !== undefined) return instanceId;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) {
        const why = route.reason === null ? '' : `: ${route.reason}`;
        throw new AppError('unavailable', `the agent is not ready after ${readyTimeoutMs / 1000} s${why}`, { retryAfterS: 5 });
      }
      await news.wait(Math.min(READY_POLL_MS, leftMs));
      signal.throwIfAborted();
    }
  }

  #reachable(route: AgentRoute): string | undefined {
    return route.instanceId !== undefined && this.#options.gateway.reaches(route.instanceId) ? route.instanceId : undefined;
  }
}
