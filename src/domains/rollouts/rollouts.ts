import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, pageOf, type PageRequest } from '../../lib/page.js';
import type { Deployments } from '../deployments/deployments.js';
import type { BeginRollout, RolloutAnswer } from './rollouts.schema.js';
import * as store from './rollouts.store.js';
import { healthOf, memberState, wavesOf } from './waves.js';

export interface RolloutsOptions {
  db: Kysely<Schema>;
  deployments: Deployments;
  /** Those that may be rolled out. */
  images: readonly string[];
}

type Trx = Transaction<Schema>;
type Member = Awaited<ReturnType<typeof store.membersAcrossTenants>>[number];

const WATCH_EVERY_MS = 500;
const NO_MEMBERS = { waiting: 0, rolling: 0, ready: 0, failed: 0, gone: 0, undone: 0 };
const SEEN_STATES = ['rolling', 'ready', 'failed', 'gone'] as const;

/** Another image for all deployments, wave after wave. What a wave wishes is written; the reconciler replaces the instances. */
export class Rollouts {
  readonly #options: RolloutsOptions;
  readonly #db: Kysely<Schema>;

  constructor(options: RolloutsOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** `conflict` while another one is under way. */
  async begin(wish: BeginRollout): Promise<RolloutAnswer> {
    this.#checkImage(wish.image);
    const id = newId('rol');
    try {
      await this.#db.transaction().execute(async (trx) => {
        const candidates = await store.candidatesAcrossTenants(trx);
        const waves = wavesOf(candidates.length, wish.canary);
        const members = candidates.map((one, i) => ({
          rollout_id: id,
          deployment_id: one.id,
          wave: waves[i] ?? 0,
          previous: one.rolled_image,
        }));
        await store.insertAcrossTenants(trx, { id, ...wish }, members);
      });
    } catch (error) {
      if (!isUniqueViolation(error)) throw error;
      throw new AppError('conflict', 'another rollout is under way: undo it, or wait for its end', { cause: error });
    }
    return this.get(id);
  }

  async list(page: PageRequest): Promise<Page<RolloutAnswer>> {
    const rows = await store.listAcrossTenants(this.#db, page);
    const answers = new Map<string, RolloutAnswer>();
    for (const row of rows.slice(0, page.limit)) answers.set(row.id, await this.#answer(row));
    return pageOf(rows, page, null, (row) => answers.get(row.id) as RolloutAnswer);
  }

  async get(id: string): Promise<RolloutAnswer> {
    const row = await store.readAcrossTenants(this.#db, id);
    if (!row) throw new AppError('not_found', 'rollout not found');
    return this.#answer(row);
  }

  /** How it stands now and after every change, until it has ended or `signal` aborts. */
  async *watch(id: string, signal: AbortSignal): AsyncGenerator<RolloutAnswer> {
    let last = '';
    while (!signal.aborted) {
      const answer = await this.get(id);
      const text = JSON.stringify(answer);
      if (text !== last) yield answer;
      last = text;
      if (answer.ended_at !== null) return;
      await sleep(WATCH_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** No further wave begins; the one in hand goes on. */
  pause(id: string): Promise<RolloutAnswer> {
    return this.#turn(id, 'running', 'paused');
  }

  resume(id: string): Promise<RolloutAnswer> {
    return this.#turn(id, 'paused', 'running');
  }

  /** Its deployments are taken back to what they had, also those of one that is done. */
  async undo(id: string): Promise<RolloutAnswer> {
    const changed = await this.#db.transaction().execute(async (trx) => {
      const row = await store.lockAcrossTenants(trx, id);
      if (!row) throw new AppError('not_found', 'rollout not found');
      if (row.state === 'undone' || row.state === 'halted') throw new AppError('conflict', `the rollout is ${row.state} already`);
      return this.#rollBack(trx, row, 'undone', null);
    });
    this.#announce(changed);
    return this.get(id);
  }

  /** Takes the rollout that runs one step further: its row is held meanwhile, so that no two processes do it both. */
  async advance(): Promise<void> {
    const changed = await this.#db.transaction().execute(async (trx) => {
      const rollout = await store.takeRunningAcrossTenants(trx);
      return rollout ? this.#advance(trx, rollout) : [];
    });
    this.#announce(changed);
  }

  /** Answers the deployments that are to be looked at. */
  async #advance(trx: Trx, rollout: store.RunningRow): Promise<string[]> {
    const { id, wave, least_health: least } = rollout;
    const members = await this.#look(trx, rollout);
    const failed = members.filter(({ now }) => now === 'failed');
    const turns = await store.turnsAcrossTenants(trx, id, wave);
    const health = healthOf({ all: members.length, failed: failed.length }, turns);
    if (health !== rollout.health) await store.updateAcrossTenants(trx, id, { health });
    if (health < least) {
      const why = failed.find(({ member }) => member.reason !== null)?.member.reason;
      const reason = `its health fell to ${health.toFixed(2)}, below ${least}${why ? `: ${why}` : ''}`;
      return this.#rollBack(trx, rollout, 'halted', reason);
    }
    if (members.some(({ now }) => now === 'rolling')) return [];
    if (wave >= 0 && rollout.ready_s === null) await store.noteReadyAcrossTenants(trx, id);
    return this.#nextWave(trx, rollout);
  }

  /** How those stand that had their turn, but for those that have gone; what changed is written down. */
  async #look(trx: Trx, rollout: store.RunningRow): Promise<{ member: Member; now: (typeof SEEN_STATES)[number] }[]> {
    const { id, wave, image } = rollout;
    const isLate = rollout.wave_s > rollout.wave_timeout_s;
    const members = (await store.membersAcrossTenants(trx, id, wave)).map((member) => ({
      member,
      now: memberState(member, image, isLate),
    }));
    for (const state of SEEN_STATES) {
      const changed = members.filter(({ member, now }) => now === state && member.member_state !== state);
      await store.setMembersAcrossTenants(trx, id, idsOf(changed.map(({ member }) => member)), state);
    }
    return members.filter(({ now }) => now !== 'gone');
  }

  async #nextWave(trx: Trx, { id, wave, image, pause_s: pauseS, ready_s: readyS }: store.RunningRow): Promise<string[]> {
    const next = (await store.membersAcrossTenants(trx, id, wave + 1)).filter((member) => member.wave === wave + 1);
    if (next.length === 0) {
      await store.endAcrossTenants(trx, id, 'done', null);
      return [];
    }
    if (wave >= 0 && (readyS ?? 0) < pauseS) return [];
    await store.beginWaveAcrossTenants(trx, id, wave + 1);
    await store.setMembersAcrossTenants(trx, id, idsOf(next), 'rolling');
    const open = next.filter((member) => member.desired !== null && member.image === null);
    const wishes = idsOf(open).map((deploymentId) => ({ deploymentId, image }));
    return this.#options.deployments.roll(trx, wishes, byRollout(id, 'began'));
  }

  async #rollBack(
    trx: Trx,
    { id, wave, image }: store.RolloutRow,
    state: 'halted' | 'undone',
    reason: string | null,
  ): Promise<string[]> {
    const members = (await store.membersAcrossTenants(trx, id, wave)).filter((member) => member.rolled_image === image);
    const wishes = members.map((member) => ({ deploymentId: member.deployment_id, image: member.previous }));
    const changed = await this.#options.deployments.roll(trx, wishes, byRollout(id, state));
    await store.setMembersAcrossTenants(trx, id, idsOf(members), 'undone');
    await store.endAcrossTenants(trx, id, state, reason);
    return changed;
  }

  async #turn(id: string, from: 'running' | 'paused', to: 'running' | 'paused'): Promise<RolloutAnswer> {
    await this.#db.transaction().execute(async (trx) => {
      const row = await store.lockAcrossTenants(trx, id);
      if (!row) throw new AppError('not_found', 'rollout not found');
      if (row.state === to) return;
      if (row.state !== from) throw new AppError('conflict', `the rollout is ${row.state}`);
      await store.updateAcrossTenants(trx, id, { state: to });
    });
    return this.get(id);
  }

  #announce(deploymentIds: string[]): void {
    for (const id of deploymentIds) this.#options.deployments.announce(id);
  }

  #checkImage(image: string): void {
    const { images } = this.#options;
    if (images.includes(image)) return;
    const message = `must be one of ${images.join(', ')}`;
    throw new AppError('invalid_request', `image: ${message}`, { fields: [{ path: 'image', message }] });
  }

  async #answer(row: store.RolloutRow): Promise<RolloutAnswer> {
    const counts = await store.countsAcrossTenants(this.#db, row.id);
    const { id, image, canary, pause_s, wave_timeout_s, least_health, state, reason, health } = row;
    return {
      id,
      image,
      canary,
      pause_s,
      wave_timeout_s,
      least_health,
      state,
      reason,
      health,
      wave: row.wave + 1,
      waves: Math.max(0, ...counts.map((one) => one.last + 1)),
      deployments: { ...NO_MEMBERS, ...Object.fromEntries(counts.map((one) => [one.state, Number(one.n)])) },
      created_at: row.created_at.toISOString(),
      ended_at: row.ended_at?.toISOString() ?? null,
    };
  }
}

function idsOf(members: Member[]): string[] {
  return members.map((member) => member.deployment_id);
}

/** As the deployments' histories name it. */
function byRollout(id: string, what: 'began' | 'halted' | 'undone') {
  return { actor: 'rollouts', requestId: null, reason: what === 'began' ? `rollout ${id}` : `rollout ${id} was ${what}` };
}
