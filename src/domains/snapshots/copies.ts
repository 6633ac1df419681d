import type { Readable } from 'node:stream';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import { deletedAnswer, restoreAnswer } from './answers.js';
import type { AgentSettings } from './archive.schema.js';
import { Importing } from './import.js';
import { checkRoom, type Keeping } from './keeping.js';
import * as restores from './restores.store.js';
import type { Shapes } from './settings.js';
import type { SnapshotFiles } from './snapshot-files.js';
import type { ArrivingAgent, DeletedAgent, DuplicateAgent } from './snapshots.schema.js';
import * as store from './snapshots.store.js';
import type { RestoreKind } from './snapshots.table.js';

export interface CopiesOptions {
  db: Kysely<Schema>;
  agents: Agents;
  shapes: Shapes;
  files: SnapshotFiles;
  keeping: Keeping;
  announce: () => void;
}

/** A body on its way in. */
export interface Incoming {
  body: Readable;
  lengthBytes: number | undefined;
}

interface Birth {
  name: string;
  settings: AgentSettings;
  kind: RestoreKind;
  /** Of an agent that there was before. */
  id?: string;
  /** Says, in the transaction that makes the agent, which snapshot its state is; null: it has none. */
  snapshot: (trx: Transaction<Schema>, agentId: string) => Promise<string | null>;
}

const NEWEST: PageRequest = { after: undefined, offset: 0, limit: 1 };
const NAME_CHARS = 64;
const COPY = '-copy';

/** Agents that begin with what another one has, or had: duplicates, imports, and those that are brought back. */
export class Copies {
  readonly #options: CopiesOptions;

  constructor(options: CopiesOptions) {
    this.#options = options;
  }

  /** Another agent with the settings of this one as they are now, and with its state where that is wished: of now, or of a snapshot. */
  async duplicate(
    userId: string,
    agent: string,
    wish: DuplicateAgent,
    caller: Caller,
    requestId: string,
  ): Promise<ArrivingAgent> {
    const { db, shapes } = this.#options;
    const { id: sourceId, name: sourceName, ...settings } = await shapes.read(userId, agent);
    const given = wish.snapshot === undefined ? undefined : await store.findSnapshot(db, userId, sourceId, wish.snapshot);
    if (wish.snapshot !== undefined && !given) throw new AppError('not_found', 'snapshot not found');
    if (given && given.state !== 'ready') throw new AppError('conflict', `the snapshot is ${given.state}, not ready`);
    const snapshot = async (trx: Transaction<Schema>) => {
      if (wish.state === false) return null;
      if (given) return given.id;
      checkRoom(await this.#options.keeping.room(trx, userId), 1);
      const id = newId('snp');
      const row = { id, agent_id: sourceId, agent_name: sourceName, kind: 'duplicate' as const, settings, note: null };
      await store.insertSnapshot(trx, userId, { ...row, incarnation: null, deployment_id: null, config_version: null });
      return id;
    };
    const name = wish.name ?? `${sourceName.slice(0, NAME_CHARS - COPY.length)}${COPY}`;
    return this.#make(userId, { name, settings, kind: 'duplicate', snapshot }, caller, requestId);
  }

  /** An agent out of an export. Nothing of it is anywhere before all of it was read and found sound. */
  async import(userId: string, name: string, incoming: Incoming, caller: Caller, requestId: string): Promise<ArrivingAgent> {
    const { db, keeping } = this.#options;
    await this.#checkName(userId, name);
    const room = await keeping.room(db, userId);
    if ((incoming.lengthBytes ?? 0) > room.allowedBytes) throw tooLarge(incoming.lengthBytes ?? 0, room.allowedBytes);
    const importing = new Importing(incoming.body);
    const manifest = await importing.begin();
    const { contents, settings } = manifest;
    const bytes = contents.journal_bytes + contents.state_bytes;
    if (bytes > room.allowedBytes) throw tooLarge(bytes, room.allowedBytes);
    checkRoom(room, bytes);
    const id = newId('snp');
    const plain = importing.plain(manifest);
    const kept = await keeping.write(userId, { id, name, settings }, plain, () => contents);
    try {
      await kept.file.keep();
      const snapshot = async (trx: Transaction<Schema>, agentId: string) => {
        checkRoom(await keeping.room(trx, userId), kept.file.bytes);
        const row = { id, agent_id: agentId, agent_name: name, kind: 'imported' as const, settings, note: null };
        await store.insertSnapshot(trx, userId, { ...row, incarnation: null, deployment_id: null, config_version: null });
        await store.finishSnapshot(trx, userId, id, { ...kept, bytes: kept.file.bytes });
        return id;
      };
      return await this.#make(userId, { name, settings, kind: 'imported', snapshot }, caller, requestId);
    } catch (error) {
      await kept.file.discard();
      await this.#options.files.remove(userId, id);
      throw error;
    }
  }

  /** Agents that were deleted and can be brought back, the latest first. */
  async deleted(userId: string, page: PageRequest): Promise<Page<DeletedAgent>> {
    return pageOf(await store.listLast(this.#options.db, userId, undefined, page), page, null, deletedAnswer);
  }

  /** Brings an agent back with its id, its settings and its state, by its name or id; its keys and secrets are gone. */
  async undelete(
    userId: string,
    agent: string,
    name: string | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<ArrivingAgent> {
    const [last] = await store.listLast(this.#options.db, userId, agent, NEWEST);
    if (!last) throw new AppError('not_found', 'no agent of that name or id was deleted within the time that they are kept');
    if (last.state === 'failed') throw new AppError('conflict', `what the agent had could not be kept: ${last.reason ?? ''}`);
    const { settings, agent_id: id } = last;
    const snapshot = async (trx: Transaction<Schema>) => {
      const row = await store.readSnapshot(trx, userId, last.id);
      if (!row) throw new AppError('not_found', 'what the agent had is gone');
      await store.setExpiry(trx, userId, id, null);
      return row.id;
    };
    return this.#make(userId, { name: name ?? last.agent_name, settings, kind: 'undelete', id, snapshot }, caller, requestId);
  }

  /** Before anything is read: at the end it is checked again. */
  async #checkName(userId: string, name: string): Promise<void> {
    const found = await this.#options.agents.get(userId, name).catch((error: unknown) => {
      if (error instanceof AppError && error.code === 'not_found') return undefined;
      throw error;
    });
    if (found) throw new AppError('conflict', `an agent named ${name} exists already`);
  }

  async #make(userId: string, birth: Birth, caller: Caller, requestId: string): Promise<ArrivingAgent> {
    const { agents, shapes, announce } = this.#options;
    const { wish, leftOut } = shapes.wish(birth.name, birth.settings);
    let restore: restores.RestoreRow | undefined;
    const comes = async (trx: Transaction<Schema>, agentId: string) => {
      const snapshotId = await birth.snapshot(trx, agentId);
      const row = { id: newId('rst'), agent_id: agentId, snapshot_id: snapshotId, before_id: null, kind: birth.kind };
      restore = await restores.insertRestore(trx, userId, { ...row, settings: birth.settings, actor: actorOf(caller) });
      if (leftOut.length > 0) await restores.noteLeftOut(trx, userId, restore.id, leftOut);
    };
    const [made] = await agents.create(userId, [wish], caller, requestId, { id: birth.id, comes });
    announce();
    return { ...made!, restore: { ...restoreAnswer(restore!), left_out: leftOut } };
  }
}

function tooLarge(bytes: number, allowedBytes: number): AppError {
  return new AppError('payload_too_large', `the export has ${bytes} bytes; all snapshots of the user may have ${allowedBytes}`);
}
