import { setMaxListeners } from 'node:events';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { Log } from '../../lib/log.js';
import type { Chat } from '../chat/chat.js';
import { beatMessage, isQuiet } from './beat-message.js';
import * as store from './heartbeats.store.js';

export interface BeatRunsOptions {
  db: Kysely<Schema>;
  log: Log;
  chat: Chat;
}

/** A run that was written down and is to be done. */
export interface BegunBeat {
  id: string;
  user_id: string;
  agent_id: string;
  conversationId: string | undefined;
  tasks: string;
}

/** A whole beat, its tools included. */
const TIMEOUT_MS = 600_000;
const REPLY_CHARS = 20_000;
/** What the agent said at this many beats before is told it again. */
const EARLIER = 3;
/** Not the agent's failure: no model was asked, and the next beat may well go. */
const SKIPPED = new Set(['limit_exceeded', 'unavailable', 'conflict', 'rate_limited']);

/** Does the beats of this process, each a turn through `Chat`. Whatever becomes of one, its row says how it ended; none is tried again. */
export class BeatRuns {
  readonly #options: BeatRunsOptions;
  readonly #running = new Set<Promise<void>>();
  readonly #stop = new AbortController();

  constructor(options: BeatRunsOptions) {
    this.#options = options;
    // One a run, and no leak.
    setMaxListeners(0, this.#stop.signal);
  }

  get count(): number {
    return this.#running.size;
  }

  start(beat: BegunBeat): void {
    const run = this.#run(beat)
      .catch((error: unknown) => {
        // Its row stays open until this process is gone, and is then taken for lost.
        this.#options.log.error({ run: beat.id, err: error }, `a heartbeat could not be settled: ${messageOf(error)}`);
      })
      .finally(() => this.#running.delete(run));
    this.#running.add(run);
  }

  get isStopping(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Cancels what runs, and waits until that is written down. */
  async stop(): Promise<void> {
    this.#stop.abort(new AppError('unavailable', 'Berth was stopped'));
    await Promise.all(this.#running);
  }

  /** Ends a run with its event, unless it has ended. */
  async settle(
    { id, user_id: userId, agent_id }: Pick<BegunBeat, 'id' | 'user_id' | 'agent_id'>,
    end: store.BeatEnd,
  ): Promise<void> {
    await this.#options.db.transaction().execute(async (trx) => {
      if (!(await store.settleRun(trx, userId, id, end))) return;
      const payload = { agent_id, run_id: id, ...(end.reason === undefined ? {} : { reason: end.reason }) };
      await appendEvent(trx, userId, { type: `heartbeat.${end.status}`, actor: 'heartbeats', requestId: null, payload });
    });
  }

  async #run(beat: BegunBeat): Promise<void> {
    const limit = new AbortController();
    const timer = setTimeout(
      () => limit.abort(new AppError('timeout', `it took longer than ${TIMEOUT_MS / 60_000} minutes`)),
      TIMEOUT_MS,
    );
    const joined = joinSignals(this.#stop.signal, limit.signal);
    try {
      const end = await this.#turn(beat, joined.signal).catch((error: unknown) =>
        failed(joined.signal.aborted ? joined.signal.reason : error),
      );
      await this.settle(beat, end);
    } finally {
      clearTimeout(timer);
      joined.release();
    }
  }

  async #turn(
    { user_id: userId, agent_id: agentId, conversationId: id, tasks }: BegunBeat,
    signal: AbortSignal,
  ): Promise<store.BeatEnd> {
    const { db, chat } = this.#options;
    const content = beatMessage(tasks, await store.lastReplies(db, userId, agentId, EARLIER));
    const prepared = await chat.prepare(userId, agentId, {
      messages: [{ role: 'user', content }],
      memory: { kind: 'apart', id },
      origin: { actor: 'heartbeats', requestId: null },
    });
    const { turnId, conversationId } = prepared;
    const known = { turnId, conversationId: conversationId ?? undefined };
    try {
      const turn = await chat.begin(prepared, signal);
      await turn.finish();
      return { ...known, ...saidIn(turn.reply), usage: turn.usage };
    } catch (error) {
      return { ...known, ...failed(signal.aborted ? signal.reason : error) };
    }
  }
}

function saidIn(reply: string): Pick<store.BeatEnd, 'status' | 'reply' | 'reason'> {
  if (isQuiet(reply)) return { status: 'quiet' };
  if (reply.trim() === '') return { status: 'quiet', reason: 'the agent said nothing' };
  return { status: 'replied', reply: reply.slice(0, REPLY_CHARS) };
}

function failed(error: unknown): store.BeatEnd {
  if (!(error instanceof AppError)) return { status: 'failed', reason: 'internal error' };
  return { status: SKIPPED.has(error.code) ? 'skipped' : 'failed', reason: error.message };
}
