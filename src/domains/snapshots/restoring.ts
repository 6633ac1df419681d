import { Readable } from 'node:stream';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { StateClient } from '../../gateway/state.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { AgentArrivals, Agents } from '../agents/agents.js';
import type { Chat } from '../chat/chat.js';
import type { Deployments } from '../deployments/deployments.js';
import { hold } from './held.store.js';
import { linesOf } from './journal-check.js';
import type { Keeping } from './keeping.js';
import { section } from './recording.js';
import * as restores from './restores.store.js';
import type { Shapes } from './settings.js';
import type { SnapshotFiles } from './snapshot-files.js';
import * as store from './snapshots.store.js';
import { isForGood } from './verdict.js';

export interface RestoringOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  arrivals: AgentArrivals;
  chat: Chat;
  deployments: Deployments;
  files: SnapshotFiles;
  keeping: Keeping;
  shapes: Shapes;
  state: StateClient;
}

type Next = { againInS: number } | undefined;

const AGAIN: Next = { againInS: 1 };
const AFTER_FAILURE_S = 5;
const GIVE_UP_MS = 3_600_000;
const MIB = 1024 * 1024;

/**
 * Puts states in place. The state lies beside the agent's own until one transaction says that it is the agent's from now on, together with what
 * the journal says then; before that nothing has changed, and after it the gateway begins with it at its next config, whoever dies meanwhile.
 */
export class Restoring {
  readonly #options: RestoringOptions;

  constructor(options: RestoringOptions) {
    this.#options = options;
  }

  /** undefined: it is done. */
  async restore(row: restores.RestoreRow, signal: AbortSignal): Promise<Next> {
    const { shapes, db } = this.#options;
    const { user_id: userId, agent_id: agentId, settings } = row;
    if (settings !== null) {
      const leftOut = await shapes.give(userId, agentId, settings);
      await restores.settingsGiven(db, userId, row.id, [...row.left_out, ...leftOut]);
    }
    if (row.snapshot_id === null) return this.#finish(row, undefined);
    const before = row.before_id === null ? 'ready' : await this.#stateOf(userId, row.before_id);
    const wanted = await this.#stateOf(userId, row.snapshot_id);
    if (before === 'pending' || wanted === 'pending') return AGAIN;
    if (before === 'failed') throw new AppError('conflict', 'no snapshot could be taken of what is there now');
    if (wanted === 'failed') throw new AppError('conflict', 'the snapshot could not be taken');
    const snapshot = await store.readSnapshot(db, userId, row.snapshot_id);
    if (!snapshot) throw new AppError('not_found', 'the snapshot is gone');
    if (!(await this.#bring(row, snapshot, signal))) return AGAIN;
    return this.#finish(row, snapshot);
  }

  async failed(row: restores.RestoreRow, error: unknown): Promise<Next> {
    const { db, log, agents, arrivals } = this.#options;
    const { user_id: userId, agent_id: agentId, id } = row;
    const reason = reasonOf(error);
    log.warn({ restore: id, err: error }, `a state was not put in place: ${messageOf(error)}`);
    if (!isForGood(error) && Date.now() - row.created_at.getTime() < GIVE_UP_MS) {
      await hold(db, userId, 'restores', id, AFTER_FAILURE_S, reason);
      return { againInS: AFTER_FAILURE_S };
    }
    const touched = await db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      if (!(await restores.endRestore(trx, userId, id, { state: 'failed', reason, turnsRemoved: null }))) return [];
      const ids = await arrivals.giveUp(trx, userId, agentId);
      const payload = { restore_id: id, agent_id: agentId, reason };
      await appendEvent(trx, userId, { type: 'agent.restore_failed', actor: 'snapshots', requestId: null, payload });
      return ids;
    });
    agents.announce(touched);
    return undefined;
  }

  async #stateOf(userId: string, id: string): Promise<store.SnapshotRow['state']> {
    const row = await store.readSnapshot(this.#options.db, userId, id);
    if (!row) throw new AppError('not_found', 'the snapshot is gone');
    return row.state;
  }

  /** Lays the state beside what the agent has; false where its container is not there yet. */
  async #bring(row: restores.RestoreRow, snapshot: store.SnapshotRow, signal: AbortSignal): Promise<boolean> {
    const { db, deployments, keeping, state } = this.#options;
    const { user_id: userId, agent_id: agentId, id } = row;
    const agent = await store.placeOf(db, userId, agentId);
    if (!agent) throw new AppError('not_found', 'the agent is gone');
    await deployments.wake(userId, agent.deployment_id, 'snapshot');
    await deployments.wakeForFiles(userId, agent.deployment_id);
    const isThere = agent.instance_id !== null && (agent.applied_version ?? 0) > 0 && agent.moving_from === null;
    if (!isThere || !state.reaches(agent.instance_id!)) return false;
    const { contents } = snapshot;
    const room = await store.readRoom(db, userId);
    if (!contents || !room) throw new AppError('not_found', 'the snapshot is gone');
    const open = await keeping.open(snapshot);
    const bytes = section(open(), contents.journal_bytes, contents.state_bytes);
    const body = Readable.from(bytes, { objectMode: false });
    // A file that does not open is told as it is, not as the break of a stream that it is for the gateway.
    let failure: unknown;
    body.once('error', (error) => (failure = error));
    try {
      const to = { instanceId: agent.instance_id!, agent: agent.name, incarnation: id };
      await state.write(to, { body, lengthBytes: contents.state_bytes, quotaBytes: room.disk_mib * MIB }, signal);
    } catch (error) {
      throw failure !== undefined && isForGood(failure) ? failure : error;
    } finally {
      body.destroy();
    }
    return true;
  }

  async #finish(row: restores.RestoreRow, snapshot: store.SnapshotRow | undefined): Promise<undefined> {
    const { db, agents, arrivals, keeping } = this.#options;
    const { user_id: userId, agent_id: agentId, id, actor } = row;
    const open = snapshot && (await keeping.open(snapshot));
    const touched = await db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      const turnsRemoved = snapshot && open ? await this.#replaceJournal(trx, row, snapshot, open()) : 0;
      if (!(await restores.endRestore(trx, userId, id, { state: 'done', reason: null, turnsRemoved }))) return [];
      const ids = await arrivals.end(trx, userId, agentId, snapshot ? id : null);
      if (snapshot?.kind === 'duplicate') await store.deleteSnapshot(trx, userId, snapshot.id);
      const payload = { restore_id: id, agent_id: agentId, snapshot_id: row.snapshot_id, kind: row.kind };
      await appendEvent(trx, userId, { type: 'agent.restored', actor, requestId: null, payload });
      return ids;
    });
    agents.announce(touched);
    if (snapshot?.kind === 'duplicate') await this.#options.files.remove(userId, snapshot.id);
    return undefined;
  }

  #replaceJournal(
    trx: Parameters<Chat['replaceJournal']>[0],
    row: restores.RestoreRow,
    snapshot: store.SnapshotRow,
    plain: AsyncIterable<Uint8Array>,
  ) {
    const bytes = section(plain, 0, snapshot.contents?.journal_bytes ?? 0);
    // What came from elsewhere, or is another agent's, may have ids that are somebody's here.
    const asOwn = snapshot.kind !== 'imported' && snapshot.agent_id === row.agent_id;
    return this.#options.chat.replaceJournal(trx, row.user_id, row.agent_id, linesOf(bytes), { asOwn });
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof AppError) return error.message;
  if (isForGood(error)) return "the snapshot's file was altered or is damaged: it does not open";
  return 'Berth failed; its log has the cause';
}
