import type { Readable } from 'node:stream';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { StateClient } from '../../gateway/state.js';
import { withDeadline } from '../../lib/deadline.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { AgentArrivals, Agents } from '../agents/agents.js';
import type { Chat } from '../chat/chat.js';
import type { Deployments } from '../deployments/deployments.js';
import { hold } from './held.store.js';
import { checkRoom, type Keeping } from './keeping.js';
import { bytesOfJournal, Recording } from './recording.js';
import { type SnapshotFiles, TakenOver } from './snapshot-files.js';
import * as store from './snapshots.store.js';
import { isForGood } from './verdict.js';

export interface TakingOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  arrivals: AgentArrivals;
  chat: Chat;
  deployments: Deployments;
  files: SnapshotFiles;
  keeping: Keeping;
  state: StateClient;
  /** Told of each that is ready or has failed. */
  onEnded: (snapshot: store.SnapshotRow) => Promise<void>;
}

type Next = { againInS: number } | undefined;
type Place = { instanceId: string; agent: string; incarnation?: string };

const AGAIN: Next = { againInS: 1 };
const AFTER_FAILURE_S = 5;
/** From the wish to the file. The last one of an agent holds up the end of its container for no longer. */
const GIVE_UP_MS = 3_600_000;
const GIVE_UP_LAST_MS = 900_000;
const TAKE_TIMEOUT_MS = 1_800_000;
const LINES_AT_ONCE = 200;

/** Takes the snapshots that are wished: waits for the agent's container, reads its state over the link into a file, and only then says that it is there. */
export class Taking {
  readonly #options: TakingOptions;

  constructor(options: TakingOptions) {
    this.#options = options;
  }

  /** undefined: it is there. */
  async take(row: store.SnapshotRow, signal: AbortSignal): Promise<Next> {
    const place = row.kind === 'last' ? await this.#placeOfGone(row) : await this.#placeOf(row);
    if (place === undefined) return this.#isOverdue(row) ? this.#fail(row, 'its container was not there in time') : AGAIN;
    await withDeadline('the snapshot', TAKE_TIMEOUT_MS, (joined) => this.#record(row, place, joined), signal);
    return undefined;
  }

  /** What does not pass ends it; all else is tried again while there is time. */
  async failed(row: store.SnapshotRow, error: unknown): Promise<Next> {
    const { db, log } = this.#options;
    if (error instanceof TakenOver) return undefined;
    const reason = error instanceof AppError ? error.message : 'Berth failed; its log has the cause';
    log.warn({ snapshot: row.id, err: error }, `a snapshot was not taken: ${messageOf(error)}`);
    if (isForGood(error) || this.#isOverdue(row)) return this.#fail(row, reason);
    await hold(db, row.user_id, 'snapshots', row.id, AFTER_FAILURE_S, reason);
    return { againInS: AFTER_FAILURE_S };
  }

  async #placeOf({ user_id: userId, agent_id: agentId }: store.SnapshotRow): Promise<Place | undefined> {
    const { db, state } = this.#options;
    const found = await store.placeOf(db, userId, agentId);
    if (!found) throw new AppError('not_found', 'the agent is gone');
    if (found.arriving === 'new') {
      // What failed to come never will by itself: the agent has nothing that could be kept.
      if (!found.is_awaited) throw new AppError('conflict', 'the agent has no state: none came');
      return undefined;
    }
    await this.#wake(userId, found.moving_from ?? found.deployment_id);
    const isThere = found.instance_id !== null && (found.applied_version ?? 0) > 0 && found.moving_from === null;
    return isThere && state.reaches(found.instance_id!) ? { instanceId: found.instance_id!, agent: found.name } : undefined;
  }

  /** Of an agent that is gone: its gateway must have been told, so that what it has not got any more it will not get either. */
  async #placeOfGone(row: store.SnapshotRow): Promise<Place | undefined> {
    const { db, state } = this.#options;
    const { user_id: userId, deployment_id: deploymentId, incarnation } = row;
    if (deploymentId === null || incarnation === null) throw new AppError('not_found', 'the agent is gone');
    const found = await store.instanceOf(db, userId, deploymentId);
    if (!found || found.desired === 'deleted') throw new AppError('not_found', 'the container of the agent is gone');
    await this.#wake(userId, deploymentId);
    const isTold = found.instance_id !== null && (found.applied_version ?? 0) >= (row.config_version ?? 0);
    if (!isTold || !state.reaches(found.instance_id!)) return undefined;
    return { instanceId: found.instance_id!, agent: row.agent_name, incarnation };
  }

  async #wake(userId: string, deploymentId: string): Promise<void> {
    await this.#options.deployments.wake(userId, deploymentId, 'snapshot');
    await this.#options.deployments.wakeForFiles(userId, deploymentId);
  }

  async #record(row: store.SnapshotRow, place: Place, signal: AbortSignal): Promise<void> {
    const { state } = this.#options;
    const tar = await state.read(place, signal).catch((error: unknown) => {
      // An agent that is gone may never have had anything.
      if (place.incarnation !== undefined && error instanceof AppError && error.code === 'not_found') return undefined;
      throw error;
    });
    try {
      await this.#keep(row, tar);
    } finally {
      tar?.destroy();
    }
  }

  async #keep(row: store.SnapshotRow, tar: Readable | undefined): Promise<void> {
    const { keeping } = this.#options;
    const { user_id: userId, id, agent_name: name, settings } = row;
    const recording = new Recording();
    const journal = recording.journal(row.kind === 'last' ? this.#keptJournal(row) : this.#journal(row));
    const state = recording.state(tar as AsyncIterable<Uint8Array> | undefined);
    const plain = (async function* () {
      yield* journal;
      yield* state;
    })();
    const kept = await keeping.write(userId, { id, name, settings }, plain, () => recording.contents());
    try {
      if (await this.#finish(row, kept)) await this.#ended(row);
    } finally {
      await kept.file.discard();
    }
  }

  /**
   * The file comes into its place while the row is held and before it says so: of two that write the same one is the snapshot's, and its key beside
   * it. One that stays though the row does not say so is cleared away by the next try. Answers whether the snapshot was still waited for.
   */
  async #finish(row: store.SnapshotRow, kept: Awaited<ReturnType<Keeping['write']>>): Promise<boolean> {
    const { db, agents, keeping } = this.#options;
    const { user_id: userId, id } = row;
    const values = { ...kept, bytes: kept.file.bytes };
    return db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      checkRoom(await keeping.room(trx, userId), kept.file.bytes);
      if (!(await store.finishSnapshot(trx, userId, id, values))) return false;
      await kept.file.keep();
      await this.#settle(trx, row, 'snapshot.taken', { bytes: kept.file.bytes });
      return true;
    });
  }

  async #fail(row: store.SnapshotRow, reason: string): Promise<undefined> {
    const { db, agents } = this.#options;
    const isNews = await db.transaction().execute(async (trx) => {
      await agents.lock(trx, row.user_id);
      if (!(await store.failSnapshot(trx, row.user_id, row.id, 'pending', reason))) return false;
      await this.#settle(trx, row, 'snapshot.failed', { reason });
      return true;
    });
    if (!isNews) return undefined;
    await this.#options.files.remove(row.user_id, row.id);
    await this.#ended(row);
    return undefined;
  }

  async #settle(trx: Transaction<Schema>, row: store.SnapshotRow, type: string, more: object): Promise<void> {
    const { id, user_id: userId, agent_id, deployment_id: deploymentId, kind } = row;
    await store.dropLines(trx, userId, id);
    if (kind === 'last' && deploymentId !== null) await this.#options.arrivals.left(trx, userId, deploymentId);
    const payload = { snapshot_id: id, agent_id, kind, ...more };
    await appendEvent(trx, userId, { type, actor: 'snapshots', requestId: null, payload });
  }

  async #ended(row: store.SnapshotRow): Promise<void> {
    if (row.deployment_id !== null) this.#options.deployments.announce(row.deployment_id);
    await this.#options.onEnded(row);
  }

  #journal({ user_id: userId, agent_id: agentId }: store.SnapshotRow): AsyncGenerator<Buffer> {
    return bytesOfJournal(this.#options.chat.journal(userId, agentId));
  }

  async *#keptJournal({ user_id: userId, id }: store.SnapshotRow): AsyncGenerator<Buffer> {
    let after = -2_000_000_000;
    for (;;) {
      const lines = await store.linesAfter(this.#options.db, userId, id, after, LINES_AT_ONCE);
      for (const { line } of lines) yield Buffer.from(`${line}\n`);
      const last = lines.at(-1);
      if (!last || lines.length < LINES_AT_ONCE) return;
      after = last.position;
    }
  }

  #isOverdue({ kind, created_at: createdAt }: store.SnapshotRow): boolean {
    return Date.now() - createdAt.getTime() > (kind === 'last' ? GIVE_UP_LAST_MS : GIVE_UP_MS);
  }
}
