import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely, Transaction } from 'kysely';
import { isForeignKeyViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { News } from '../../events/news.js';
import type { GatewayClient, GatewayEvent } from '../../gateway/gateway.js';
import { AppError, NotSent } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { Log } from '../../lib/log.js';
import type { AgentRoute, Agents } from '../agents/agents.js';
import * as store from './chat.store.js';
import { RunningTurn, type TurnEnd } from './turn.js';
import { withRetryAfter } from './turn-error.js';

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

type OnWaiting = (reason: string | null) => Promise<void> | undefined;

/** How long a turn may wait for its agent, and who is to hear that it does. */
interface Wait {
  deadline: number;
  signal: AbortSignal;
  onWaiting: OnWaiting | undefined;
  /** The reason that was given last; undefined before any was. */
  said: string | null | undefined;
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
   * Waits for the agent where it is not ready (`onWaiting` is told, and again when the reason changes), at most `readyTimeoutMs`, then `unavailable`; writes the journal and
   * asks the gateway. A turn that the gateway has surely not begun, as where its link had just closed, is asked for again in that time; one
   * that may have begun never is. Aborting `signal` cancels the turn all the way to the provider, now and while it runs.
   */
  async begin(prepared: PreparedTurn, signal: AbortSignal, onWaiting?: OnWaiting): Promise<RunningTurn> {
    const wait: Wait = { deadline: performance.now() + this.#options.readyTimeoutMs, signal, onWaiting, said: undefined };
    let instanceId = await this.#reach(prepared, wait);
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

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteConversations(trx, userId);
  }

  async #conversation(
    userId: string,
    agentId: string,
    memory: TurnWish['memory'],
  ): Promise<{ id: string | null; isNew: boolean }> {
    if (memory.kind === 'none') return { id: null, isNew: false };
    if (memory.kind === 'external') {
      return { id: await this.#externalConversation(userId, agentId, memory.user), isNew: false };
    }
    if (memory.id === undefined) return { id: newId('cnv'), isNew: true };
    if (await store.findConversation(this.#db, userId, agentId, memory.id)) return { id: memory.id, isNew: false };
    throw new AppError('not_found', 'conversation not found');
  }

  async #externalConversation(userId: string, agentId: string, externalUser: string): Promise<string> {
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
    const { agent, turnId, conversationId, wish } = prepared;
    const turn = { agent, turnId, messages: wish.messages, user: conversationId ?? undefined, sampling: wish.sampling ?? {} };
    return this.#options.gateway.turn(instanceId, turn, signal);
  }

  async #reach(prepared: PreparedTurn, wait: Wait): Promise<string> {
    return this.#reachable(prepared.route) ?? (await this.#await(prepared, wait));
  }

  /** After a refusal: looks at where the agent is by now, but not at once, since what refused may still look alive. */
  async #reachAgain(prepared: PreparedTurn, wait: Wait, refusal: NotSent): Promise<string> {
    if (performance.now() + READY_POLL_MS > wait.deadline) throw refusal;
    await sleep(READY_POLL_MS, undefined, { signal: wait.signal }).catch(() => wait.signal.throwIfAborted());
    return this.#await(prepared, wait);
  }

  async #await(prepared: PreparedTurn, wait: Wait): Promise<string> {
    const news = new News(this.#options.bus, (id) => id === prepared.route.deploymentId, wait.signal);
    try {
      return await this.#untilReady(prepared, wait, news);
    } finally {
      news.end();
    }
  }

  async #untilReady(prepared: PreparedTurn, wait: Wait, news: News): Promise<string> {
    const { readyTimeoutMs, agents } = this.#options;
    for (;;) {
      const route = await agents.route(prepared.userId, prepared.route.agentId);
      const instanceId = this.#reachable(route);
      if (instanceId !== undefined) return instanceId;
      if (wait.said !== route.reason) await wait.onWaiting?.(route.reason);
      wait.said = route.reason;
      const leftMs = wait.deadline - performance.now();
      if (leftMs <= 0) {
        const why = route.reason === null ? '' : `: ${route.reason}`;
        throw new AppError('unavailable', `the agent is not ready after ${readyTimeoutMs / 1000} s${why}`, { retryAfterS: 5 });
      }
      await news.wait(Math.min(READY_POLL_MS, leftMs));
      wait.signal.throwIfAborted();
    }
  }

  #reachable(route: AgentRoute): string | undefined {
    return route.instanceId !== undefined && this.#options.gateway.reaches(route.instanceId) ? route.instanceId : undefined;
  }
}

function ifNotSent(error: unknown): NotSent {
  if (error instanceof NotSent) return error;
  throw error;
}
