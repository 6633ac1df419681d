import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import type { KeptTurnsClient } from '../../gateway/kept-turns.js';
import type { EventSink } from '../../http/sse.js';
import { AppError, type ErrorCode, messageOf } from '../../lib/errors.js';
import { isId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import type { Agents } from '../agents/agents.js';
import type { Chat, PreparedTurn } from './chat.js';
import type { ChatAnswer, TurnUsage } from './chat.schema.js';
import type { Once } from './chat.store.js';
import { Follower } from './follower.js';
import { pruneEventsAcrossTenants } from './turn-writer.store.js';
import type { KeptEnd, KeptTurn } from './kept-turn.js';
import type { KeptTurns } from './kept-turns.js';
import { TurnCancelled, withRetryAfter } from './turn-error.js';
import type { TurnAnswer } from './turns.schema.js';
import * as store from './turns.store.js';

export interface TurnsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  agents: Agents;
  chat: Chat;
  turns: KeptTurns;
  kept: KeptTurnsClient;
}

/** A kept turn as a client comes to it: as it begins, or as it was begun before. */
export type Joined = { turn: KeptTurn; row?: undefined } | { turn?: undefined; row: store.TurnRow };

/** How a turn went, as its clients are told. */
export interface Outcome {
  status: 'finished' | 'failed' | 'cancelled';
  answer: ChatAnswer;
  error: AppError | undefined;
}

const CANCEL_WITHIN_MS = 5_000;
const LOOK_EVERY_MS = 50;
const PRUNED_AT_ONCE = 1_000;
const EVENTS_KEPT_S = 24 * 60 * 60;

/** Turns by their ids: begun so that they can be come back to, looked at, followed, cancelled. */
export class Turns {
  readonly #options: TurnsOptions;
  readonly #db: Kysely<Schema>;
  readonly #follower: Follower;

  constructor(options: TurnsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#follower = new Follower(options);
    options.bus.subscribe('turn', (id) => this.#cancelHere(id));
  }

  /**
   * Begins a turn that is written down as it goes; with `once`, joins the one that the same request has begun. A turn that is not resumable is not
   * joined while it runs: that is a `conflict`, which names it.
   */
  async begin(
    userId: string,
    { prepare, resumable, once }: { prepare: () => Promise<PreparedTurn>; resumable: boolean; once: Once | undefined },
  ): Promise<Joined> {
    const before = once && (await store.findTurnOnce(this.#db, userId, once.key));
    if (before) return this.#join(before, once);
    const turn = await this.#options.turns.begin(await prepare(), { resumable, once });
    if (turn) return { turn };
    const first = once && (await store.findTurnOnce(this.#db, userId, once.key));
    if (!first) throw new AppError('conflict', 'the request with this Idempotency-Key has just ended', { retryAfterS: 1 });
    return this.#join(first, once);
  }

  /** A turn of that agent. `not_found` alike for one that never was and for another's. */
  async find(userId: string, agent: string, turnId: string): Promise<store.TurnRow> {
    const { agentId } = await this.#options.agents.route(userId, agent);
    const row = isId('trn', turnId) ? await store.findTurn(this.#db, userId, turnId, agentId) : undefined;
    if (!row) throw new AppError('not_found', 'turn not found');
    return row;
  }

  async get(userId: string, agent: string, turnId: string): Promise<TurnAnswer> {
    const row = await this.find(userId, agent, turnId);
    const calls = await store.readCalls(this.#db, userId, turnId);
    return {
      turn_id: row.id,
      agent: row.agent,
      conversation_id: row.conversation_id,
      status: row.status,
      resumable: row.resumable,
      cancelling: row.status === 'running' && row.cancel_at !== null,
      message: row.reply,
      finish_reason: row.finish_reason,
      error: row.status === 'failed' ? { error: row.error ?? '', code: row.error_code ?? 'upstream_error' } : null,
      usage: row.prompt_tokens === null ? null : usageOf(row),
      calls: calls.map((call) => ({
        ...call,
        prompt_tokens: Number(call.prompt_tokens),
        completion_tokens: Number(call.completion_tokens),
        started_at: call.started_at.toISOString(),
        ended_at: call.ended_at?.toISOString() ?? null,
      })),
      created_at: row.created_at.toISOString(),
      ended_at: row.ended_at?.toISOString() ?? null,
    };
  }

  /** Ends a turn wherever it runs, down to its provider; one that has ended stays as it is. Waits a while for its end. */
  async cancel(userId: string, agent: string, turnId: string): Promise<TurnAnswer> {
    const row = await this.find(userId, agent, turnId);
    if (row.status === 'running') await this.#cancel(userId, row.id);
    return this.get(userId, row.agent_id, turnId);
  }

  /** Has turns end that were told so; does not wait for it. */
  interrupt(userId: string, turnIds: string[]): void {
    for (const id of turnIds) {
      this.#cancel(userId, id).catch((error: unknown) => {
        this.#options.log.error({ turn: id, err: error }, `a turn could not be interrupted: ${messageOf(error)}`);
      });
    }
  }

  /** Sends all of a turn that comes after that event. Resolves with how it ended; with nothing where this process stops. */
  async show(joined: Joined, cursor: number, sink: EventSink): Promise<Outcome | undefined> {
    if (joined.row) return this.#follow(joined.row, cursor, sink);
    const { turn } = joined;
    const relayed = await turn.relay(cursor, sink);
    if (relayed.how === 'left') return undefined;
    if (relayed.how === 'ended' && turn.end) return outcomeOf(turn, turn.end);
    const { id, userId, resumable } = turn.turn;
    return this.#follow({ id, user_id: userId, resumable }, relayed.cursor, sink);
  }

  /** How a turn went that has begun here, or has ended; aborting the signal cancels it. */
  async outcome(joined: Joined, signal: AbortSignal): Promise<Outcome> {
    if (joined.row) return outcomeIn(joined.row);
    const { turn } = joined;
    const gone = () => void turn.cancel();
    if (signal.aborted) gone();
    signal.addEventListener('abort', gone, { once: true });
    const end = await turn.ended().finally(() => signal.removeEventListener('abort', gone));
    if (!end) throw new AppError('unavailable', 'Berth is stopping', { retryAfterS: 1 });
    return outcomeOf(turn, end);
  }

  /** Takes over what dead processes left. */
  adopt(): Promise<void> {
    return this.#options.turns.adopt();
  }

  stop(): Promise<void> {
    return this.#options.turns.stop();
  }

  /** Lets go of what turns said, event by event, a day after; the replies stay with their conversations. */
  async prune(signal: AbortSignal): Promise<void> {
    await store.forgetKeysAcrossTenants(this.#db, EVENTS_KEPT_S);
    while (!signal.aborted) {
      if ((await pruneEventsAcrossTenants(this.#db, EVENTS_KEPT_S, PRUNED_AT_ONCE)) < PRUNED_AT_ONCE) return;
    }
  }

  async #follow(
    { id, user_id: userId, resumable }: Pick<store.TurnRow, 'id' | 'user_id' | 'resumable'>,
    cursor: number,
    sink: EventSink,
  ): Promise<Outcome | undefined> {
    const ended = await this.#follower.follow({ userId, turnId: id, resumable }, cursor, sink);
    return ended && outcomeIn(ended);
  }

  #join(row: store.TurnRow, once: Once | undefined): Joined {
    if (row.once_body !== once?.body)
      throw new AppError('unprocessable', 'this Idempotency-Key was used with another request body');
    if (row.status !== 'running' || row.resumable) return { row };
    throw new AppError('conflict', `the request with this Idempotency-Key is still running, as turn ${row.id}`, {
      retryAfterS: 1,
      headers: { 'Berth-Turn': row.id },
    });
  }

  async #cancel(userId: string, turnId: string): Promise<void> {
    await store.requestCancel(this.#db, userId, turnId);
    this.#options.bus.publish('turn', turnId);
    const deadline = performance.now() + CANCEL_WITHIN_MS;
    for (let asked = false; performance.now() < deadline;) {
      const row = await store.findTurn(this.#db, userId, turnId);
      if (row?.status !== 'running') return;
      // Not only by its process, which may be dead.
      if (!asked && row.instance_id !== null) {
        asked = true;
        await this.#options.kept.cancel(row.instance_id, turnId).catch((error: unknown) => {
          this.#options.log.debug({ turn: turnId, err: error }, 'a gateway was not told that a turn is to end');
        });
      }
      await sleep(LOOK_EVERY_MS);
    }
  }

  #cancelHere(turnId: string): void {
    this.#options.chat.cancelHere(turnId);
    this.#options.turns
      .get(turnId)
      ?.cancel()
      .catch((error: unknown) => {
        this.#options.log.error({ turn: turnId, err: error }, `a turn could not be cancelled: ${messageOf(error)}`);
      });
  }
}

function outcomeOf({ turn }: KeptTurn, { status, reply, error }: KeptEnd): Outcome {
  const answer = {
    message: reply.text,
    agent: turn.agent,
    conversation_id: turn.conversationId ?? '',
    turn_id: turn.id,
    finish_reason: reply.finishReason,
    usage: reply.usage ?? NO_USAGE,
  };
  return { status, answer, error: error && withRetryAfter(error) };
}

function outcomeIn(row: store.TurnRow): Outcome {
  const answer = {
    message: row.reply ?? '',
    agent: row.agent,
    conversation_id: row.conversation_id ?? '',
    turn_id: row.id,
    finish_reason: row.finish_reason ?? 'stop',
    usage: usageOf(row),
  };
  if (row.status === 'finished') return { status: 'finished', answer, error: undefined };
  if (row.status === 'cancelled') return { status: 'cancelled', answer, error: new TurnCancelled() };
  // Written from an `AppError`; turns of before had no code.
  const code = (row.error_code ?? 'upstream_error') as ErrorCode;
  return { status: 'failed', answer, error: withRetryAfter(new AppError(code, row.error ?? 'the turn failed')) };
}

const NO_USAGE: TurnUsage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };

function usageOf({ prompt_tokens: prompt, completion_tokens: completion }: store.TurnRow): TurnUsage {
  return { prompt_tokens: prompt ?? 0, completion_tokens: completion ?? 0, total_tokens: (prompt ?? 0) + (completion ?? 0) };
}
