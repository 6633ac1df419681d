import type { Kysely } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { KeptTurnsClient } from '../../gateway/kept-turns.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { Agents, Wait } from '../agents/agents.js';
import { Asker, type AskerOptions } from './asker.js';
import type { PreparedTurn } from './chat.js';
import { findConversation, type Once } from './chat.store.js';
import { Journal } from './turn-writer.js';
import { readEventRows } from './turn-writer.store.js';
import { type KeptEnd, KeptTurn, type Opener, type Source, type TurnIdentity } from './kept-turn.js';
import { openJournal } from './open-journal.js';
import { Reply } from './reply.js';
import { decodeEvents } from './turn-event.js';
import { endTurn } from './turn-events.js';
import { TurnCancelled } from './turn-error.js';
import * as store from './turns.store.js';

export interface KeptTurnsOptions extends AskerOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  kept: KeptTurnsClient;
  processId: string;
  interrupt: (userId: string, turnIds: string[]) => void;
  /** How long a process is silent before its turns are taken over. */
  deadAfterS?: number | undefined;
}

/** Three heartbeats missed. Should the process live after all, both write the same down. */
const DEAD_AFTER_S = 15;
const ADOPTED_AT_ONCE = 50;
const ROWS_AT_ONCE = 200;
type Orphan = Awaited<ReturnType<typeof store.adoptAcrossTenants>>[number];

/** The kept turns that this process writes down: those it began, and those it took over from dead processes. */
export class KeptTurns {
  readonly #options: KeptTurnsOptions;
  readonly #db: Kysely<Schema>;
  readonly #asker: Asker;
  readonly #journal: Journal;
  readonly #running = new Map<string, KeptTurn>();
  /** Taken over, but not begun with. */
  readonly #untaken: Orphan[] = [];
  #isStopping = false;

  constructor(options: KeptTurnsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#asker = new Asker(options);
    this.#journal = new Journal(options);
  }

  /** The turn, where this process writes it down. */
  get(turnId: string): KeptTurn | undefined {
    return this.#running.get(turnId);
  }

  /** Begins a turn: its row is written when this resolves. Undefined where a turn with that `once` was begun before. */
  async begin(
    prepared: PreparedTurn,
    { resumable, once }: { resumable: boolean; once: Once | undefined },
  ): Promise<KeptTurn | undefined> {
    if (this.#isStopping) throw new AppError('unavailable', 'Berth is stopping', { retryAfterS: 1 });
    const instanceId = this.#reachable(prepared);
    try {
      const row = { processId: this.#options.processId, instanceId: instanceId ?? null, kept: { resumable, once } };
      this.#options.interrupt(prepared.userId, await openJournal(this.#db, prepared, row));
    } catch (error) {
      if (once && isUniqueViolation(error, 'turns_once')) return undefined;
      throw error;
    }
    const { turnId: id, userId, route, agent, conversationId } = prepared;
    const turn = this.#turnOf({ id, userId, agentId: route.agentId, agent, conversationId, resumable });
    this.#run(turn, (signal, onWaiting) => this.#ask(turn, prepared, this.#asker.wait(signal, onWaiting), instanceId));
    return turn;
  }

  /** Takes over what dead processes left. */
  async adopt(): Promise<void> {
    const { processId, deadAfterS = DEAD_AFTER_S } = this.#options;
    await this.#take({ processId, deadAfterS, limit: ADOPTED_AT_ONCE });
  }

  /** Takes this one over, whoever has it. */
  async adoptOne(turnId: string): Promise<void> {
    await this.#take({ processId: this.#options.processId, deadAfterS: 0, limit: 1, turnId });
  }

  /** Leaves all turns to other processes, what they said until now written down. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const turn of this.#running.values()) turn.leave();
    await this.#journal.stop();
  }

  async #take(takeover: store.Takeover): Promise<void> {
    if (this.#isStopping) return;
    const orphans = [...this.#untaken.splice(0), ...(await store.adoptAcrossTenants(this.#db, takeover))];
    for (const orphan of orphans) {
      try {
        await this.#adopt(orphan);
      } catch (error) {
        // It is this process's by now: nobody else will try.
        if (!isGone(error)) this.#untaken.push(orphan);
        this.#options.log.error({ turn: orphan.id, err: error }, `a turn could not be taken over: ${messageOf(error)}`);
      }
    }
  }

  async #adopt({ id, user_id: userId, agent_id: agentId, ...row }: Orphan): Promise<void> {
    const route = await this.#options.agents.route(userId, agentId);
    const before = await this.#readBefore(userId, id);
    const { conversation_id: conversationId, instance_id: instanceId, resumable } = row;
    const turn = this.#turnOf({ id, userId, agentId, agent: route.name, conversationId, resumable }, before);
    if (instanceId !== null) {
      turn.asks(instanceId);
      this.#run(turn, () => turn.find(instanceId));
    } else if (resumable) {
      const wish = { messages: row.messages, memory: { kind: 'conversation' as const, id: conversationId ?? undefined } };
      const known = conversationId === null ? undefined : await findConversation(this.#db, userId, agentId, conversationId);
      const memoryKey = known?.memory_key ?? conversationId;
      // It was let into its conversation when it was taken.
      const conversation = { conversationId, memoryKey, isNewConversation: false, onBusy: 'queue' as const };
      const prepared = { turnId: id, userId, agent: route.name, ...conversation, route, wish };
      this.#run(turn, (signal, onWaiting) => this.#ask(turn, prepared, this.#asker.wait(signal, onWaiting)));
    } else this.#run(turn, () => Promise.reject(new AppError('unavailable', 'the process that took the turn died')));
    if (row.cancel_at !== null) await turn.cancel();
  }

  /** What a process that died has written down. */
  async #readBefore(userId: string, turnId: string): Promise<{ seq: number; reply: Reply }> {
    const before = { seq: 0, reply: new Reply() };
    for (;;) {
      const rows = await readEventRows(this.#db, userId, turnId, before.seq, ROWS_AT_ONCE);
      for (const row of rows) {
        for (const event of decodeEvents(row.events)) if (event.seq > before.seq) before.reply.note(event);
        before.seq = Math.max(before.seq, row.to_seq);
      }
      if (rows.length < ROWS_AT_ONCE) return before;
    }
  }

  #turnOf(turn: TurnIdentity, before?: { seq: number; reply: Reply }): KeptTurn {
    const { kept: gateway, log } = this.#options;
    return new KeptTurn({
      turn,
      ...(before ? { before } : {}),
      journal: this.#journal,
      gateway,
      hasEnded: (instanceId) => store.hasInstanceEnded(this.#db, turn.userId, instanceId),
      settle: (end) => this.#settle(turn, end),
      log,
    });
  }

  #run(turn: KeptTurn, open: Opener): void {
    const { id } = turn.turn;
    this.#running.set(id, turn);
    void turn.run(open).finally(() => {
      if (this.#running.get(id) === turn) this.#running.delete(id);
    });
  }

  async #ask(turn: KeptTurn, prepared: PreparedTurn, wait: Wait, known?: string): Promise<Source> {
    const { userId, turnId } = prepared;
    let marked = known;
    return this.#asker.ask(known ?? (await this.#asker.reach(prepared, wait)), prepared, wait, {
      before: async (instanceId) => {
        if (instanceId !== marked && !(await store.markAsked(this.#db, userId, turnId, instanceId))) throw new TurnCancelled();
        marked = instanceId;
        turn.asks(instanceId);
      },
      refused: () => turn.asks(undefined),
    });
  }

  #reachable({ route }: PreparedTurn): string | undefined {
    const isHere = route.instanceId !== undefined && !route.isResting && this.#options.gateway.reaches(route.instanceId);
    return isHere ? route.instanceId : undefined;
  }

  #settle(turn: TurnIdentity, { status, reply, error, unasked }: KeptEnd): Promise<void> {
    const end = {
      status,
      reply: reply.text,
      error: error?.message ?? null,
      errorCode: error?.code ?? null,
      finishReason: status === 'finished' ? reply.finishReason : null,
      usage: reply.usage,
      mayRunAgain: unasked,
    };
    return endTurn(this.#db, turn, end, reply.tools);
  }
}

/** Its agent was deleted, and the turn with it. */
function isGone(error: unknown): boolean {
  return error instanceof AppError && error.code === 'not_found';
}
