import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { Kysely, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import type { StateClient } from '../../gateway/state.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Vault } from '../../vault/vault.js';
import type { AgentArrivals, Departing, Farewell } from '../agents/agents.js';
import type { Chat } from '../chat/chat.js';
import type { Deployments } from '../deployments/deployments.js';
import { restoreAnswer, snapshotAnswer, snapshotDetail } from './answers.js';
import { Copies } from './copies.js';
import { exportOf } from './export.js';
import * as held from './held.store.js';
import { checkRoom, Keeping } from './keeping.js';
import * as restores from './restores.store.js';
import { Restoring } from './restoring.js';
import { Schedules } from './schedules.js';
import { Shapes, type ShapesOptions } from './settings.js';
import { SnapshotFiles } from './snapshot-files.js';
import type { RestoreAnswer, SnapshotAnswer, SnapshotDetail } from './snapshots.schema.js';
import * as store from './snapshots.store.js';
import type { SnapshotKind } from './snapshots.table.js';
import { Taking } from './taking.js';
import { Workers } from './workers.js';

export interface SnapshotsOptions extends ShapesOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  vault: Vault;
  arrivals: AgentArrivals;
  chat: Chat;
  deployments: Deployments;
  state: StateClient;
  config: {
    /** The files are in a folder of it, which all Berth processes on the database share. */
    dataDir: string;
    /** How long what is left of a deleted agent is kept; 0: nothing is. */
    undeleteHours: number;
  };
}

const SNAPSHOTS_OF_AN_AGENT = 200;
const AT_A_TIME = 3;
/** A file that nobody has written to for so long, and that has no row, is nobody's. */
const ORPHAN_MS = 3_600_000;
const LOOKED_AT_ONCE = 200;

/** States of agents as they were: taken, kept, put back, given to other agents, carried elsewhere. */
export class Snapshots implements Farewell {
  readonly copies: Copies;
  readonly schedules: Schedules;
  readonly #options: SnapshotsOptions;
  readonly #shapes: Shapes;
  readonly #db: Kysely<Schema>;
  readonly #files: SnapshotFiles;
  readonly #keeping: Keeping;
  readonly #takers: Workers<store.SnapshotRow>;
  readonly #restorers: Workers<restores.RestoreRow>;

  constructor(options: SnapshotsOptions) {
    const { db, log } = options;
    this.#options = options;
    this.#db = db;
    this.#files = new SnapshotFiles(join(options.config.dataDir, 'snapshots'));
    this.#keeping = new Keeping({ db, vault: options.vault, files: this.#files });
    this.#shapes = new Shapes(options);
    const parts = { ...options, shapes: this.#shapes, files: this.#files, keeping: this.#keeping };
    const announce = () => this.#announce();
    this.schedules = new Schedules({ ...parts, announce });
    this.copies = new Copies({ ...parts, announce });
    const taking = new Taking({ ...parts, onEnded: (row) => this.#ended(row) });
    const restoring = new Restoring(parts);
    this.#takers = new Workers({
      atATime: AT_A_TIME,
      log,
      claim: (limit, holdS) => held.claimAcrossTenants(db, 'snapshots', limit, holdS),
      hold: (row, seconds) => held.hold(db, row.user_id, 'snapshots', row.id, seconds),
      work: (row, signal) => taking.take(row, signal),
      failed: (row, error) => taking.failed(row, error),
    });
    this.#restorers = new Workers({
      atATime: AT_A_TIME,
      log,
      claim: (limit, holdS) => held.claimAcrossTenants(db, 'restores', limit, holdS),
      hold: (row, seconds) => held.hold(db, row.user_id, 'restores', row.id, seconds),
      work: (row, signal) => restoring.restore(row, signal),
      failed: (row, error) => restoring.failed(row, error),
    });
    options.bus.subscribe('snapshot', () => {
      this.work().catch((error: unknown) => log.error({ err: error }, 'snapshots could not be looked at'));
    });
  }

  // ---- of an agent -------------------------------------------------------------------------------------------------------

  /** It is taken as soon as the agent's container gives it; `insufficient_storage` where the user's snapshots leave no room. */
  async take(userId: string, agent: string, note: string | undefined): Promise<SnapshotAnswer> {
    const { agents } = this.#options;
    const { id: agentId, name, ...settings } = await this.#shapes.read(userId, agent);
    const id = newId('snp');
    const row = await this.#db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      await agents.getIn(trx, userId, agentId);
      checkRoom(await this.#keeping.room(trx, userId), 1);
      await this.#checkCount(trx, userId, agentId);
      const wish = { id, agent_id: agentId, agent_name: name, kind: 'manual' as const, settings, note: note ?? null };
      await store.insertSnapshot(trx, userId, { ...wish, incarnation: null, deployment_id: null, config_version: null });
      return store.readSnapshot(trx, userId, id);
    });
    this.#announce();
    return snapshotAnswer(row!);
  }

  /** Newest first. */
  async list(userId: string, agent: string, page: PageRequest): Promise<Page<SnapshotAnswer>> {
    const { id } = await this.#options.agents.get(userId, agent);
    const rows = await store.listSnapshots(this.#db, userId, id, page);
    return pageOf(rows, page, await store.countSnapshots(this.#db, userId, id), snapshotAnswer);
  }

  async get(userId: string, agent: string, id: string): Promise<SnapshotDetail> {
    return snapshotDetail(await this.#find(userId, agent, id));
  }

  /** `conflict` while a restore has need of it. */
  async remove(userId: string, agent: string, id: string, caller: Caller, requestId: string): Promise<void> {
    const { agent_id } = await this.#find(userId, agent, id);
    await this.#db.transaction().execute(async (trx) => {
      await this.#options.agents.lock(trx, userId);
      if (!(await store.deleteSnapshot(trx, userId, id)))
        throw new AppError('conflict', 'a restore has need of the snapshot: try again when that has ended');
      const payload = { snapshot_id: id, agent_id };
      await appendEvent(trx, userId, { type: 'snapshot.deleted', actor: actorOf(caller), requestId, payload });
    });
    await this.#files.remove(userId, id);
  }

  /**
   * Puts the agent back: workspace, memory, conversations and journal, none of its settings. No turn of it runs from now until then. `conflict`
   * while another restore of it has not ended.
   */
  async restore(
    userId: string,
    agent: string,
    snapshotId: string,
    { keepCurrent }: { keepCurrent: boolean },
    caller: Caller,
  ): Promise<RestoreAnswer> {
    const { agents, arrivals } = this.#options;
    const snapshot = await this.#find(userId, agent, snapshotId);
    if (snapshot.state !== 'ready') throw new AppError('conflict', `the snapshot is ${snapshot.state}, not ready`);
    const { id: agentId, name, ...settings } = await this.#shapes.read(userId, agent);
    const beforeId = keepCurrent ? newId('snp') : null;
    const wish = { id: newId('rst'), agent_id: agentId, snapshot_id: snapshotId, before_id: beforeId, settings: null };
    const row = await this.#db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      if (!(await store.readSnapshot(trx, userId, snapshotId))) throw new AppError('not_found', 'snapshot not found');
      await arrivals.begin(trx, userId, agentId);
      if (beforeId !== null) {
        checkRoom(await this.#keeping.room(trx, userId), 1);
        const before = { id: beforeId, agent_id: agentId, agent_name: name, kind: 'before_restore' as SnapshotKind, settings };
        const note = `before the restore of ${snapshotId}`;
        await store.insertSnapshot(trx, userId, {
          ...before,
          note,
          incarnation: null,
          deployment_id: null,
          config_version: null,
        });
      }
      return restores.insertRestore(trx, userId, { ...wish, kind: 'in_place', actor: actorOf(caller) }).catch(oneAtATime);
    });
    this.#announce();
    return restoreAnswer(row);
  }

  async listRestores(userId: string, agent: string, page: PageRequest): Promise<Page<RestoreAnswer>> {
    const { id } = await this.#options.agents.get(userId, agent);
    return pageOf(await restores.listRestores(this.#db, userId, id, page), page, null, restoreAnswer);
  }

  async getRestore(userId: string, agent: string, id: string): Promise<RestoreAnswer> {
    const { id: agentId } = await this.#options.agents.get(userId, agent);
    const row = await restores.findRestore(this.#db, userId, agentId, id);
    if (!row) throw new AppError('not_found', 'restore not found');
    return restoreAnswer(row);
  }

  /** The snapshot as a file that another installation takes: always the same bytes. */
  async export(
    userId: string,
    agent: string,
    id: string,
  ): Promise<{ name: string; bytes: number; sha256: string; body: Readable }> {
    const row = await this.#find(userId, agent, id);
    const { contents, taken_at: takenAt, settings, agent_name: name } = row;
    if (row.state !== 'ready' || !contents || !takenAt) throw new AppError('conflict', `the snapshot is ${row.state}, not ready`);
    const open = await this.#keeping.open(row);
    const exported = exportOf({ name, takenAt, settings, contents });
    const body = Readable.from(exported.stream(open()), { objectMode: false });
    return { name: `${name}-${id}.tar`, bytes: exported.bytes, sha256: contents.export_sha256, body };
  }

  // ---- of agents that go -------------------------------------------------------------------------------------------------

  async gather(userId: string, agent: string) {
    const { undeleteHours } = this.#options.config;
    if (undeleteHours === 0) return undefined;
    const { id: _id, name: _name, ...settings } = await this.#shapes.read(userId, agent);
    return async (trx: Transaction<Schema>, gone: Departing) => {
      const { id: agent_id, name: agent_name, incarnation, deploymentId: deployment_id, configVersion: config_version } = gone;
      if (incarnation !== undefined) {
        const id = newId('snp');
        const wish = { id, agent_id, agent_name, kind: 'last' as const, settings, note: null };
        await store.insertSnapshot(trx, userId, { ...wish, incarnation, deployment_id, config_version });
        await store.keepLines(trx, userId, agent_id, id);
      }
      await store.setExpiry(trx, userId, agent_id, undeleteHours);
      this.#announce();
    };
  }

  /** Part of the user's deletion. The files go first: without their rows nothing would say whose they are, without them no row is missed. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await this.#files.removeAll(userId);
    await store.eraseSnapshots(trx, userId);
  }

  // ---- what happens by itself ----------------------------------------------------------------------------------------------

  /** Takes up what is to be done, without waiting for its end. */
  async work(): Promise<void> {
    await this.#takers.run();
    await this.#restorers.run();
  }

  async stop(): Promise<void> {
    await Promise.all([this.#takers.stop(), this.#restorers.stop()]);
  }

  /** Deletes those whose time is over. */
  async expire(): Promise<void> {
    for (const { id, user_id: userId } of await store.expiredAcrossTenants(this.#db, LOOKED_AT_ONCE))
      if (await store.deleteSnapshot(this.#db, userId, id)) await this.#files.remove(userId, id);
  }

  /** Files without a row go; a snapshot without a file has failed. */
  async sweep(): Promise<void> {
    await this.#files.sweep(ORPHAN_MS, (userId, ids) => store.existing(this.#db, userId, ids));
    for (let after = ''; ;) {
      const rows = await store.readyAcrossTenants(this.#db, after, LOOKED_AT_ONCE);
      for (const { id, user_id: userId } of rows)
        if (!(await this.#files.has(userId, id))) await store.failSnapshot(this.#db, userId, id, 'ready', 'its file is lost');
      const last = rows.at(-1);
      if (!last || rows.length < LOOKED_AT_ONCE) return;
      after = last.id;
    }
  }

  async #ended({ user_id: userId, agent_id: agentId, kind }: store.SnapshotRow): Promise<void> {
    this.#announce();
    if (kind !== 'scheduled') return;
    for (const id of await this.schedules.beyondKept(userId, agentId))
      if (await store.deleteSnapshot(this.#db, userId, id)) await this.#files.remove(userId, id);
  }

  async #checkCount(trx: Transaction<Schema>, userId: string, agentId: string): Promise<void> {
    if ((await store.countSnapshots(trx, userId, agentId)) < SNAPSHOTS_OF_AN_AGENT) return;
    throw new AppError('limit_exceeded', `an agent may have ${SNAPSHOTS_OF_AN_AGENT} snapshots, and has them`);
  }

  async #find(userId: string, agent: string, id: string): Promise<store.SnapshotRow> {
    const { id: agentId } = await this.#options.agents.get(userId, agent);
    const row = await store.findSnapshot(this.#db, userId, agentId, id);
    if (!row) throw new AppError('not_found', 'snapshot not found');
    return row;
  }

  #announce(): void {
    this.#options.bus.publish('snapshot', '');
  }
}

function oneAtATime(error: unknown): never {
  if (!isUniqueViolation(error, 'restores_one_pending')) throw error;
  throw new AppError('conflict', 'another restore of the agent has not ended yet', { cause: error });
}
