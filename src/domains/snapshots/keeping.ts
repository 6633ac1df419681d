import { createHash } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import type { Vault } from '../../vault/vault.js';
import type { AgentSettings, Contents, StoredContents } from './archive.schema.js';
import { exportOf } from './export.js';
import type { NewFile, SnapshotFiles } from './snapshot-files.js';
import * as store from './snapshots.store.js';

/** All snapshots of a user together may take so many times what the user's tier gives on disk. */
const DISKS = 2;
const MIB = 1024 * 1024;

/** A file that is written, sealed, read again and found to be as it was; to be kept together with its row. */
export interface Kept {
  file: NewFile;
  streamKey: Buffer;
  contents: StoredContents;
  takenAt: Date;
}

/** How much a user's snapshots take and may take. */
export interface Room {
  tier: string;
  usedBytes: number;
  allowedBytes: number;
  dataKey: Buffer;
}

/** Seals what becomes a snapshot under its user's data key, keeps it within the user's room, and opens it again. */
export class Keeping {
  readonly #db: Kysely<Schema>;
  readonly #vault: Vault;
  readonly #files: SnapshotFiles;

  constructor({ db, vault, files }: { db: Kysely<Schema>; vault: Vault; files: SnapshotFiles }) {
    this.#db = db;
    this.#vault = vault;
    this.#files = files;
  }

  async room(db: Kysely<Schema>, userId: string): Promise<Room> {
    const row = await store.readRoom(db, userId);
    if (!row) throw new AppError('not_found', 'user not found');
    return { tier: row.tier, usedBytes: row.used, allowedBytes: DISKS * row.disk_mib * MIB, dataKey: row.data_key };
  }

  /** Writes what `plain` gives; `contents` is asked once it has ended. Nothing stays where anything goes wrong. */
  async write(
    userId: string,
    snapshot: { id: string; name: string; settings: AgentSettings },
    plain: AsyncIterable<Uint8Array>,
    contents: () => Contents,
  ): Promise<Kept> {
    const room = await this.room(this.#db, userId);
    const place = placeOf(userId, snapshot.id);
    const streamKey = this.#vault.newStreamKey(room.dataKey, place);
    const sealed = this.#vault.sealStream(room.dataKey, place, streamKey, plain);
    const file = await this.#files.write(userId, snapshot.id, within(room, sealed));
    try {
      const takenAt = new Date();
      const found = contents();
      const exported = exportOf({ ...snapshot, takenAt, contents: found });
      const hash = createHash('sha256');
      const opened = this.#vault.openStream(room.dataKey, place, streamKey, file.read());
      for await (const piece of exported.stream(opened)) hash.update(piece);
      const stored = { ...found, export_bytes: exported.bytes, export_sha256: hash.digest('hex') };
      return { file, streamKey, contents: stored, takenAt };
    } catch (error) {
      await file.discard();
      throw error;
    }
  }

  /** Gives the plain bytes of a snapshot that is ready: its journal, then its state; each call from the beginning. What was altered ends in a `VaultError`. */
  async open(row: store.SnapshotRow): Promise<() => AsyncGenerator<Uint8Array>> {
    const { user_id: userId, id, stream_key: streamKey } = row;
    if (streamKey === null) throw new AppError('conflict', 'the snapshot is not ready');
    const { dataKey } = await this.room(this.#db, userId);
    if (!(await this.#files.has(userId, id))) throw new AppError('not_found', "the snapshot's file is not there");
    return () => this.#vault.openStream(dataKey, placeOf(userId, id), streamKey, this.#files.read(userId, id));
  }
}

/** `insufficient_storage`, with the figures, where a snapshot of at least so many bytes more does not fit. */
export function checkRoom({ tier, usedBytes, allowedBytes }: Room, moreBytes: number): void {
  if (usedBytes + moreBytes <= allowedBytes) return;
  const figures = `they take ${usedBytes} bytes, and tier ${tier} allows ${allowedBytes} for all snapshots of a user`;
  throw new AppError('insufficient_storage', `there is no room for the snapshot: ${figures}`);
}

async function* within(room: Room, sealed: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const piece of sealed) {
    bytes += piece.length;
    checkRoom(room, bytes);
    yield piece;
  }
}

function placeOf(userId: string, id: string) {
  return { scope: userId, name: id, version: 1 };
}
