import type { Kysely, Transaction } from 'kysely';
import { isForeignKeyViolation, isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type PageRequest, pageOf } from '../../lib/page.js';
import type { Log } from '../../lib/log.js';
import type { Agents } from '../agents/agents.js';
import type { Chat } from '../chat/chat.js';
import type { Beat, Configs } from '../configs/configs.js';
import { isActiveAt } from '../configs/heartbeat.schema.js';
import type { Templates } from '../templates/templates.js';
import { BeatRuns } from './beat-runs.js';
import type { BeatAnswer, BeatSchedule, BeatsAnswer } from './heartbeats.schema.js';
import * as store from './heartbeats.store.js';
import { firstBeat, nextStart } from './schedule.js';

export interface HeartbeatsOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  chat: Chat;
  configs: Configs;
  templates: Templates;
  processId: string;
  /** Runs of this process at a time; 32 unless told. */
  atOnce?: number | undefined;
}

/** What an agent's heartbeat is now. */
interface Wish {
  tasks: string;
  beat: Beat;
  /** Why it is not to be woken; undefined where it is. */
  off: string | undefined;
}

const PLANS_A_PASS = 500;
const LOST_A_PASS = 100;
const AT_ONCE = 32;
/** Of one user, by schedule. The others of it are due a little longer. */
const PER_USER = 2;
/** Of one user, with those that were asked for. */
const ASKED_PER_USER = 8;
const DAYS_KEPT = { idle: 7, other: 90 };
const NOTHING_TO_DO = 'HEARTBEAT.md has nothing to do';

/**
 * Wakes agents on their schedule. What HEARTBEAT.md says is asked of the agent in a turn of its own; when, is in its config. Times are the
 * database's, so that several processes agree; a beat that is missed is not made up.
 */
export class Heartbeats {
  readonly #options: HeartbeatsOptions;
  readonly #db: Kysely<Schema>;
  readonly #runs: BeatRuns;

  constructor(options: HeartbeatsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#runs = new BeatRuns(options);
  }

  /** The agent's beats, newest first, and when the next one is. */
  async list(userId: string, agent: string, page: PageRequest): Promise<BeatsAnswer> {
    const { agentId, isStopped } = await this.#options.agents.route(userId, agent);
    const [rows, wish, plan] = await Promise.all([
      store.listRuns(this.#db, userId, agentId, page),
      this.#wish(userId, agentId, isStopped),
      store.readPlan(this.#db, userId, agentId),
    ]);
    return { ...pageOf(rows, page, null, answerOf), schedule: scheduleOf(wish, plan?.next_at ?? null) };
  }

  /** Wakes the agent now. The run goes on after the answer; its schedule stays as it is. */
  async runNow(userId: string, agent: string, caller: Caller, requestId: string): Promise<BeatAnswer> {
    const route = await this.#options.agents.route(userId, agent);
    this.#options.agents.refuseStopped(route);
    const { tasks } = await this.#wish(userId, route.agentId, false);
    const status = tasks === '' ? 'skipped' : 'running';
    const run = await this.#refusingSecond(() =>
      this.#db.transaction().execute(async (trx) => {
        // Counted under the user's lock: many at once are counted one after the other.
        await this.#options.agents.lock(trx, userId);
        if ((await store.countRunning(trx, userId)) >= ASKED_PER_USER)
          throw new AppError('rate_limited', `${ASKED_PER_USER} heartbeats of this user are running`, { retryAfterS: 5 });
        const { agentId: agent_id } = route;
        const reason = tasks === '' ? NOTHING_TO_DO : null;
        const made = await store.insertRun(trx, userId, { ...this.#newRun(agent_id, 'manual'), status, reason });
        const payload = { agent_id, run_id: made.id };
        await appendEvent(trx, userId, { type: 'heartbeat.requested', actor: actorOf(caller), requestId, payload });
        return made;
      }),
    );
    if (status === 'running') {
      const plan = await store.readPlan(this.#db, userId, route.agentId);
      this.#runs.start({ ...run, conversationId: plan?.conversation_id ?? undefined, tasks });
    }
    return answerOf(run);
  }

  /** Decides when agents are woken of which something changed. */
  async plan(): Promise<void> {
    for (const agent of await this.#options.agents.beats.unplanned(PLANS_A_PASS)) {
      await this.#alone(agent.id, () => this.#plan(agent));
    }
  }

  /** Begins the beats that are due, as far as there is room; does not wait for their end. */
  async beat(signal: AbortSignal): Promise<void> {
    const room = (this.#options.atOnce ?? AT_ONCE) - this.#runs.count;
    if (room <= 0 || this.#runs.isStopping) return;
    for (const due of await store.claimDueAcrossTenants(this.#db, room, PER_USER)) {
      if (signal.aborted) return;
      await this.#alone(due.agent_id, () => this.#begin(due));
    }
  }

  /** Ends the runs of dead processes; their agents' next beats go on. */
  async settleLost(): Promise<void> {
    const reason = 'the process that ran it died';
    for (const { id, user_id: userId, agent_id: agentId } of await store.lostAcrossTenants(this.#db, LOST_A_PASS)) {
      await this.#runs.settle({ id, user_id: userId, agent_id: agentId }, { status: 'lost', reason });
    }
  }

  prune(): Promise<void> {
    return store.pruneRunsAcrossTenants(this.#db, DAYS_KEPT);
  }

  /** Ends what runs, and waits for that. */
  stop(): Promise<void> {
    return this.#runs.stop();
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteBeats(trx, userId);
  }

  /** One agent that cannot be read keeps no other from being woken. */
  async #alone(agentId: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.log.error({ agent: agentId, err: error }, `a heartbeat could not be planned or begun: ${messageOf(error)}`);
    }
  }

  async #plan(agent: Unplanned): Promise<void> {
    const { id, user_id: userId, desired, now } = agent;
    const wish = await this.#wishUnlessGone(userId, id, desired === 'stopped');
    if (!wish) return;
    const { everyMs, activeHours } = wish.beat;
    const nextAt = wish.off === undefined ? firstBeat(now, everyMs, activeHours) : null;
    await this.#db.transaction().execute(async (trx) => {
      // What changed meanwhile is decided at the next pass.
      if (await this.#options.agents.beats.planned(trx, agent)) await store.planBeat(trx, userId, id, { everyMs, nextAt });
    });
  }

  async #begin({ agent_id: agentId, user_id: userId, conversation_id: conversationId, now }: Due): Promise<void> {
    const wish = await this.#wishUnlessGone(userId, agentId, false);
    if (!wish) return;
    const { activeHours } = wish.beat;
    if (wish.off !== undefined) return store.setNext(this.#db, userId, agentId, null);
    if (!isActiveAt(activeHours, now)) return store.setNext(this.#db, userId, agentId, nextStart(now, activeHours));
    const run = await this.#insertUnlessRunning(userId, agentId);
    if (run) this.#runs.start({ ...run, conversationId: conversationId ?? undefined, tasks: wish.tasks });
  }

  /** Nothing where another process was faster, as with a beat that was asked for, or where the agent is gone. */
  async #insertUnlessRunning(userId: string, agentId: string): Promise<store.BeatRow | undefined> {
    try {
      return await store.insertRun(this.#db, userId, { ...this.#newRun(agentId, 'schedule'), status: 'running', reason: null });
    } catch (error) {
      if (isUniqueViolation(error, 'heartbeat_runs_one_running') || isForeignKeyViolation(error)) return undefined;
      throw error;
    }
  }

  #newRun(agentId: string, origin: 'schedule' | 'manual') {
    return { id: newId('hbt'), agent_id: agentId, process_id: this.#options.processId, origin };
  }

  async #refusingSecond<T>(insert: () => Promise<T>): Promise<T> {
    try {
      return await insert();
    } catch (error) {
      if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
      if (!isUniqueViolation(error, 'heartbeat_runs_one_running')) throw error;
      throw new AppError('conflict', 'a heartbeat of this agent is running already', { cause: error });
    }
  }

  async #wish(userId: string, agentId: string, isStopped: boolean): Promise<Wish> {
    const { configs, templates } = this.#options;
    const tasks = await templates.heartbeatOf(this.#db, userId, agentId);
    const beat = (await configs.beatsFor(this.#db, userId, [agentId])).get(agentId) ?? { everyMs: 0, activeHours: undefined };
    const off = whyOff(tasks, beat, isStopped);
    return { tasks, beat, off };
  }

  /** An agent may be deleted at any time. */
  async #wishUnlessGone(userId: string, agentId: string, isStopped: boolean): Promise<Wish | undefined> {
    try {
      return await this.#wish(userId, agentId, isStopped);
    } catch (error) {
      if (error instanceof AppError && error.code === 'not_found') return undefined;
      throw error;
    }
  }
}

type Unplanned = Awaited<ReturnType<Agents['beats']['unplanned']>>[number];
type Due = Awaited<ReturnType<typeof store.claimDueAcrossTenants>>[number];

function whyOff(tasks: string, beat: Beat, isStopped: boolean): string | undefined {
  if (isStopped) return 'the agent is stopped';
  if (tasks.trim() === '') return NOTHING_TO_DO;
  return beat.everyMs === 0 ? 'heartbeat.every of its config is 0m' : undefined;
}

function scheduleOf({ beat, off }: Wish, nextAt: Date | null): BeatSchedule {
  const hours = beat.activeHours;
  return {
    enabled: off === undefined,
    reason: off ?? null,
    every_s: beat.everyMs / 1_000,
    active_hours: hours ? { start: hours.start, end: hours.end, time_zone: hours.time_zone ?? 'UTC' } : null,
    next_at: off === undefined ? (nextAt?.toISOString() ?? null) : null,
  };
}

function answerOf(row: store.BeatRow): BeatAnswer {
  const { prompt_tokens: prompt, completion_tokens: completion } = row;
  return {
    id: row.id,
    agent_id: row.agent_id,
    origin: row.origin,
    status: row.status,
    reason: row.reason,
    reply: row.reply,
    turn_id: row.turn_id,
    usage:
      prompt === null || completion === null
        ? null
        : { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
    started_at: row.started_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
  };
}
