import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Agents } from '../agents/agents.js';
import { scheduleAnswer } from './answers.js';
import { checkRhythm, nextTime } from './schedule.js';
import * as store from './schedules.store.js';
import type { Shapes } from './settings.js';
import type { ScheduleAnswer, WriteSchedule } from './snapshots.schema.js';
import * as snapshots from './snapshots.store.js';

export interface SchedulesOptions {
  db: Kysely<Schema>;
  agents: Agents;
  shapes: Shapes;
  announce: () => void;
}

const AT_ONCE = 20;
const NOT_FOUND = 'the agent has no schedule of snapshots';

/** Snapshots that are taken by themselves, and how many of them are kept. */
export class Schedules {
  readonly #options: SchedulesOptions;

  constructor(options: SchedulesOptions) {
    this.#options = options;
  }

  async get(userId: string, agent: string): Promise<ScheduleAnswer> {
    const { id } = await this.#options.agents.get(userId, agent);
    const row = await store.findSchedule(this.#options.db, userId, id);
    if (!row) throw new AppError('not_found', NOT_FOUND);
    return scheduleAnswer(row);
  }

  async put(userId: string, agent: string, wish: WriteSchedule): Promise<ScheduleAnswer> {
    const { db, agents } = this.#options;
    const rhythm = { cron: wish.cron ?? null, time_zone: wish.time_zone ?? null, every_s: wish.every_s ?? null };
    const row = await db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      const { id } = await agents.getIn(trx, userId, agent);
      const now = await store.nowAcrossTenants(trx);
      checkRhythm(now, rhythm);
      return store.putSchedule(trx, userId, { ...rhythm, agent_id: id, keep: wish.keep, next_at: nextTime(now, rhythm) });
    });
    return scheduleAnswer(row);
  }

  async remove(userId: string, agent: string): Promise<void> {
    const { id } = await this.#options.agents.get(userId, agent);
    if (!(await store.deleteSchedule(this.#options.db, userId, id))) throw new AppError('not_found', NOT_FOUND);
  }

  /** Wishes for those whose time has come. One that is still to be taken when the next is due has taken its place. */
  async beat(): Promise<void> {
    const { db } = this.#options;
    const due = await db.transaction().execute(async (trx) => {
      const rows = await store.takeDueAcrossTenants(trx, AT_ONCE);
      for (const row of rows) await store.setNext(trx, row.user_id, row.agent_id, nextTime(row.now, row));
      return rows;
    });
    for (const row of due) await this.#wish(row.user_id, row.agent_id);
    if (due.length > 0) this.#options.announce();
  }

  /** Those of the agent's that its schedule does not keep. */
  async beyondKept(userId: string, agentId: string): Promise<string[]> {
    const row = await store.findSchedule(this.#options.db, userId, agentId);
    return row ? snapshots.beyondKept(this.#options.db, userId, agentId, row.keep) : [];
  }

  async #wish(userId: string, agentId: string): Promise<void> {
    const { db, shapes } = this.#options;
    if (await store.hasPending(db, userId, agentId)) return;
    const read = await shapes.read(userId, agentId).catch((error: unknown) => {
      // Deleted since.
      if (error instanceof AppError && error.code === 'not_found') return undefined;
      throw error;
    });
    if (!read) return;
    const { id, name, ...settings } = read;
    const wish = { id: newId('snp'), agent_id: id, agent_name: name, kind: 'scheduled' as const, settings, note: null };
    await snapshots.insertSnapshot(db, userId, { ...wish, incarnation: null, deployment_id: null, config_version: null });
  }
}
