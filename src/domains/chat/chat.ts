import type { Kysely, Transaction } from 'kysely';
import { isForeignKeyViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { GatewayClient } from '../../gateway/gateway.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { Log } from '../../lib/log.js';
import type { AgentRoute, Agents, Wait } from '../agents/agents.js';
import { Asker } from './asker.js';
import * as store from './chat.store.js';
import type { OnBusy } from './chat.store.js';
import { readJournal, replaceJournal } from './journal.js';
import type { JournalLine } from './journal.schema.js';
import { mayBeRefused, openJournal } from './open-journal.js';
import { RunningTurn, type TurnEnd } from './turn.js';
import { endAbandoned, endTurn, type Origin } from './turn-events.js';
import { TurnCancelled, withRetryAfter } from './turn-error.js';

export interface ChatOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  gateway: GatewayClient;
  processId: string;
  /** How long a turn waits for an agent that is not ready. */
  readyTimeoutMs: number;
  /** Has turns end, wherever they run. */
  interrupt: (userId: string, turnIds: string[]) => void;
}

/** So many turns of one conversation run or wait; the gateway takes them in the order in which they came. */
const TURNS_IN_CONVERSATION = 16;

export type { OnBusy } from './chat.store.js';

/**
 * What a caller says. Exactly one of four kinds of memory: a conversation of ours, an OpenAI client's `user`, none, or `apart`: a conversation
 * that is journaled and of which the instance keeps nothing, so that the caller says each time all that is to be known.
 */
export interface TurnWish {
  messages: unknown[];
  memory: { kind: 'conversation' | 'apart'; id: string | undefined } | { kind: 'external'; user: string } | { kind: 'none' };
  sampling?: Record<string, unknown>;
  /** What becomes of it while another turn of its conversation runs: it waits, is refused, or ends that one. Unset: as the agent's config says, which is to wait unless told. */
  onBusy?: OnBusy | undefined;
  /** Who says it. */
  origin?: Origin;
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
  onBusy: OnBusy;
  route: AgentRoute;
  wish: TurnWish;
}

/** The conversation that a turn is of, if of one. */
interface ConversationOf {
  id: string | null;
  memoryKey: string | null;
  isNew: boolean;
  onBusy: OnBusy;
}

/** Turns: prepared, begun on the agent's instance, relayed, and journaled from before their first word to their end. */
export class Chat {
  readonly #options: ChatOptions;
  readonly #db: Kysely<Schema>;
  readonly #asker: Asker;
  /** Of the turns that run here and are not kept. */
  readonly #cancels = new Map<string, AbortController>();

  constructor(options: ChatOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#asker = new Asker(options);
  }

  /** Checks all that can be wrong before anything is begun: `not_found` for the agent or its conversation. */
  async prepare(userId: string, agent: string, wish: TurnWish): Promise<PreparedTurn> {
    const route = await this.#options.agents.route(userId, agent);
    this.#options.agents.refuseStopped(route);
    const { id: conversationId, memoryKey, isNew, onBusy } = await this.#conversation(userId, route.agentId, wish);
    const conversation = { conversationId, memoryKey, isNewConversation: isNew, onBusy };
    return { turnId: newId('trn'), userId, agent: route.name, ...conversation, route, wish };
  }

  /**
   * Waits for the agent where it is not ready (`onWaiting` is told, and again when the reason changes), at most `readyTimeoutMs`, then `unavailable`; writes the journal and
   * asks the gateway. A turn that the gateway has surely not begun, as where its link had just closed, is asked for again in that time; one
   * that may have begun never is. Aborting `signal` cancels the turn all the way to the provider, now and while it runs.
   */
  async begin(prepared: PreparedTurn, signal: AbortSignal, onWaiting?: Wait['onWaiting']): Promise<RunningTurn> {
    const wait = this.#asker.wait(signal, onWaiting);
    const instanceId = await this.#asker.reach(prepared, wait);
    const opened = openJournal(this.#db, prepared, { processId: this.#options.processId, instanceId });
    // A turn without a row in the journal must not go on: the signal that the gateway gets is one that can say so.
    const cancel = new AbortController();
    const joined = joinSignals(signal, cancel.signal);
    this.#cancels.set(prepared.turnId, cancel);
    const settle = async (end: TurnEnd) => {
      joined.release();
      this.#cancels.delete(prepared.turnId);
      const { turnId: id, userId, conversationId, route } = prepared;
      await endTurn(this.#db, { id, userId, conversationId, agentId: route.agentId }, end, end.tools ?? []);
    };
    try {
      if (mayBeRefused(prepared)) this.#options.interrupt(prepared.userId, await opened);
      // The journal's row and the gateway's first word come at the same time; nothing is relayed before both are there.
      const asked = this.#asker.ask(instanceId, prepared, { ...wait, signal: joined.signal });
      const [{ events }] = await Promise.all([asked, opened]);
      return new RunningTurn({ prepared, events, settle, signal, log: this.#options.log });
    } catch (error) {
      cancel.abort(error);
      const status = signal.aborted || error instanceof TurnCancelled ? 'cancelled' : 'failed';
      await opened.then(() =>
        settle({ status, reply: '', error: error instanceof AppError ? error.message : 'internal error', usage: undefined }),
      );
      throw error instanceof AppError ? withRetryAfter(error) : error;
    }
  }

  /** Ends a turn of this process that is not kept, if it is one. */
  cancelHere(turnId: string): void {
    this.#cancels.get(turnId)?.abort(new TurnCancelled());
  }

  /** Settles turns that dead processes left running. */
  settleAbandoned(): Promise<void> {
    return endAbandoned(this.#db);
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

  async #conversation(userId: string, agentId: string, { memory, onBusy: asked }: TurnWish): Promise<ConversationOf> {
    const alone = { isNew: false, onBusy: asked ?? 'queue' };
    if (memory.kind === 'none') return { ...alone, id: null, memoryKey: null };
    if (memory.kind === 'external') {
      const { id, memory_key, on_busy } = await this.#externalConversation(userId, agentId, memory.user);
      return { id, memoryKey: memory_key ?? id, isNew: false, onBusy: asked ?? on_busy ?? 'queue' };
    }
    if (memory.id === undefined) {
      const id = newId('cnv');
      return { ...alone, id, memoryKey: id, isNew: true };
    }
    const found = await store.findConversation(this.#db, userId, agentId, memory.id);
    if (!found) throw new AppError('not_found', 'conversation not found');
    // A setting of what people say: what Berth itself says waits.
    const onBusy = asked ?? (memory.kind === 'apart' ? null : found.on_busy) ?? 'queue';
    if (onBusy !== 'interrupt' && Number(found.running) >= TURNS_IN_CONVERSATION)
      throw new AppError('rate_limited', `${TURNS_IN_CONVERSATION} messages of this conversation wait already`, {
        retryAfterS: 5,
      });
    return { id: found.id, memoryKey: found.memory_key ?? found.id, isNew: false, onBusy };
  }

  async #externalConversation(userId: string, agentId: string, externalUser: string) {
    try {
      return await store.conversationOfExternalUser(this.#db, userId, agentId, externalUser, newId('cnv'));
    } catch (error) {
      if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
      throw error;
    }
  }
}
