import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import { unifiedDiff } from './diff.js';
import { BUILT_IN } from './files.js';
import type { DiffAnswer, VersionAnswer, VersionTextAnswer } from './templates.schema.js';
import * as store from './templates.store.js';

/** What a version takes in the database beside its text, as it is counted. */
export const HISTORY_ROW_BYTES = 512;

/** What a file was before. */
export class History {
  readonly #db: Kysely<Schema>;

  constructor({ db }: { db: Kysely<Schema> }) {
    this.#db = db;
  }

  async list(userId: string, key: store.FileKey, page: PageRequest): Promise<Page<VersionAnswer>> {
    const [rows, total] = await Promise.all([
      store.listVersions(this.#db, userId, key, page),
      store.countVersions(this.#db, userId, key),
    ]);
    return pageOf(rows, page, total, (row) => answerOf(key, row));
  }

  async get(userId: string, key: store.FileKey, version: number): Promise<VersionTextAnswer> {
    const row = await this.read(this.#db, userId, key, version);
    const bytes = row.text === null ? null : Buffer.byteLength(row.text);
    return { ...answerOf(key, { ...row, bytes }), text: row.text };
  }

  async read(db: Kysely<Schema>, userId: string, key: store.FileKey, version: number) {
    const row = await store.readVersion(db, userId, key, version);
    if (!row) throw new AppError('not_found', `${key.file} has no version ${version}`);
    return row;
  }

  async diff(
    userId: string,
    key: store.FileKey,
    sides: { from?: number | undefined; to?: number | undefined },
  ): Promise<DiffAnswer> {
    const to = sides.to ?? (await store.newestVersion(this.#db, userId, key));
    const from = sides.from ?? Math.max(0, to - 1);
    const [before, after] = [await this.#side(userId, key, from), await this.#side(userId, key, to)];
    return { file: key.file, from, to, diff: unifiedDiff(before, after) };
  }

  async #side(userId: string, key: store.FileKey, version: number): Promise<{ name: string; text: string }> {
    if (version === 0) return { name: `${key.file} (built-in)`, text: BUILT_IN[key.file] };
    const row = await this.read(this.#db, userId, key, version);
    return { name: `${key.file} (version ${version})`, text: row.text ?? '' };
  }
}

interface Row {
  id: string;
  version: number;
  is_current: boolean;
  actor: string;
  created_at: Date;
  bytes: number | null;
}

function answerOf({ file }: store.FileKey, row: Row): VersionAnswer {
  return {
    id: row.id,
    file,
    version: row.version,
    current: row.is_current,
    removed: row.bytes === null,
    bytes: row.bytes ?? 0,
    by: row.actor,
    created_at: row.created_at.toISOString(),
  };
}
