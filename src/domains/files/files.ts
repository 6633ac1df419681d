import { setTimeout as sleep } from 'node:timers/promises';
import type { Readable } from 'node:stream';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { ArchiveFormat, FilesClient, FilesPlace } from '../../gateway/files.js';
import type { ListedFile, OpenedFile } from '../../gateway/files-answer.js';
import { appendEvent } from '../../events/outbox.js';
import { AppError, messageOf, NotSent } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { Page } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import type { FileAnswer } from './files.schema.js';
import * as store from './files.store.js';

export interface FilesOptions {
  db: Kysely<Schema>;
  log: Log;
  agents: Agents;
  client: FilesClient;
  /** How long a call waits for an agent that is not ready. */
  readyTimeoutMs: number;
}

/** Whose files, and until when somebody waits for the answer. */
export interface FilesOf {
  userId: string;
  agent: string;
  signal: AbortSignal;
  /** Who asks, by which request: for the events of what is changed. */
  actor: string;
  requestId: string;
}

type Place = FilesPlace & { agentId: string };

/** A body on its way in. Nothing of it is read before its taker is there. */
export interface Incoming {
  body: Readable;
  /** What it is said to have. */
  lengthBytes: number | undefined;
}

const MIB = 1024 * 1024;
const READY_POLL_MS = 250;

/**
 * The files of an agent's workspace. They are on the agent's volume and nowhere else; every call goes to its gateway over the link, and
 * bytes pass through in both directions without being kept. A call waits for an agent that is not ready, as a chat does.
 */
export class Files {
  readonly #options: FilesOptions;

  constructor(options: FilesOptions) {
    this.#options = options;
  }

  /** A file and its bytes; with HEAD, or where `headers` guard it, without. `conflict` for a folder. */
  open(of: FilesOf, path: string, how: { method: 'GET' | 'HEAD'; headers: Record<string, string> }): Promise<OpenedFile> {
    return this.#at(of, (place) => this.#options.client.open(place, path, how, of.signal));
  }

  /** Writes a file whole or not at all; `payload_too_large` before anything is read where it cannot fit. */
  async write(
    of: FilesOf,
    path: string,
    incoming: Incoming,
    guard: Record<string, string>,
  ): Promise<FileAnswer & { isNew: boolean }> {
    const quotaBytes = await this.#quota(of.userId, incoming);
    const written = await this.#at(
      of,
      async (place) => {
        const done = await this.#options.client.write(place, path, { ...incoming, quotaBytes }, guard, of.signal);
        this.#say(of, place, 'file.written', { path, size: done.size, is_new: done.isNew });
        return done;
      },
      incoming,
    );
    return { path, ...written };
  }

  remove(of: FilesOf, path: string, recursive: boolean, guard: Record<string, string>): Promise<void> {
    return this.#at(of, async (place) => {
      await this.#options.client.remove(place, path, recursive, guard, of.signal);
      this.#say(of, place, 'file.deleted', { path });
    });
  }

  async list(
    of: FilesOf,
    query: { path: string; recursive: boolean; cursor: string | undefined; limit: number },
  ): Promise<Page<ListedFile>> {
    const { entries, nextCursor } = await this.#at(of, (place) => this.#options.client.list(place, query, of.signal));
    return { data: entries, pagination: { next_cursor: nextCursor, has_more: nextCursor !== null, total: null } };
  }

  move(of: FilesOf, move: { from: string; to: string; overwrite: boolean }): Promise<ListedFile> {
    return this.#at(of, async (place) => {
      const moved = await this.#options.client.move(place, move, of.signal);
      this.#say(of, place, 'file.moved', { from: move.from, to: move.to });
      return moved;
    });
  }

  makeFolder(of: FilesOf, path: string): Promise<ListedFile & { isNew: boolean }> {
    return this.#at(of, async (place) => {
      const made = await this.#options.client.makeFolder(place, path, of.signal);
      if (made.isNew) this.#say(of, place, 'file.folder_made', { path });
      return made;
    });
  }

  /** A folder as an archive, packed by the agent's gateway as it is read. */
  pack(of: FilesOf, path: string, format: ArchiveFormat): Promise<Readable> {
    return this.#at(of, (place) => this.#options.client.pack(place, path, format, of.signal));
  }

  /** Unpacks an archive inside the instance, whole or not at all. */
  async unpack(
    of: FilesOf,
    path: string,
    format: ArchiveFormat,
    incoming: Incoming,
  ): Promise<{ path: string; files: number; bytes: number }> {
    const quotaBytes = await this.#quota(of.userId, incoming);
    const upload = { ...incoming, quotaBytes };
    return {
      path,
      ...(await this.#at(
        of,
        async (place) => {
          const unpacked = await this.#options.client.unpack(place, path, format, upload, of.signal);
          this.#say(of, place, 'file.unpacked', { path, ...unpacked });
          return unpacked;
        },
        incoming,
      )),
    };
  }

  async usage(of: FilesOf): Promise<{ files: number; bytes: number; limit_bytes: number }> {
    const { diskMib } = await this.#limit(of.userId);
    return { ...(await this.#at(of, (place) => this.#options.client.usage(place, of.signal))), limit_bytes: diskMib * MIB };
  }

  /** The volume and the database do not commit together: it is said once it is so, and nobody waits for that. */
  #say({ userId, actor, requestId }: FilesOf, { agentId }: Place, type: string, what: Record<string, unknown>): void {
    const { db, log } = this.#options;
    const payload = { agent_id: agentId, ...what };
    db.transaction()
      .execute((trx) => appendEvent(trx, userId, { type, actor, requestId, payload }))
      .catch((error: unknown) => log.error({ err: error, user: userId, type }, `an event is lost: ${messageOf(error)}`));
  }

  async #quota(userId: string, { lengthBytes = 0 }: Incoming): Promise<number> {
    const { tier, diskMib } = await this.#limit(userId);
    if (lengthBytes <= diskMib * MIB) return diskMib * MIB;
    throw new AppError(
      'payload_too_large',
      `the body has ${lengthBytes} bytes; tier ${tier} allows ${diskMib * MIB} bytes on disk`,
    );
  }

  async #limit(userId: string): Promise<{ tier: string; diskMib: number }> {
    const limit = await store.diskLimitOf(this.#options.db, userId);
    if (!limit) throw new AppError('not_found', 'user not found');
    return limit;
  }

  /**
   * Does `work` where the agent is. What the instance has surely not seen is tried again in the time there is; a call that may have been
   * carried out never is, nor one of whose body something has been read.
   */
  async #at<T>(of: FilesOf, work: (place: Place) => Promise<T>, incoming?: Incoming): Promise<T> {
    const deadline = performance.now() + this.#options.readyTimeoutMs;
    for (;;) {
      const place = await this.#reach(of, Math.max(1, deadline - performance.now()));
      try {
        return await work(place);
      } catch (error) {
        of.signal.throwIfAborted();
        const isUntouched = incoming === undefined || !(incoming.body.destroyed || incoming.body.readableDidRead);
        if (!(error instanceof NotSent && isUntouched && performance.now() + READY_POLL_MS < deadline))
          throw await this.#clearer(error, of, place, incoming);
      }
      await sleep(READY_POLL_MS, undefined, { signal: of.signal }).catch(() => of.signal.throwIfAborted());
    }
  }

  /** Waits as a chat does; of a deployment that sleeps only the files are woken. */
  async #reach({ userId, agent, signal }: FilesOf, timeoutMs: number): Promise<Place> {
    const { instanceId, name, agentId } = await this.#options.agents.reach(userId, agent, { signal, timeoutMs, files: true });
    return { instanceId, agent: name, agentId };
  }

  /** What a lost instance, or a full disk, means for the caller. */
  async #clearer(failure: unknown, of: FilesOf, place: FilesPlace, incoming: Incoming | undefined): Promise<unknown> {
    if (!(failure instanceof AppError)) return failure;
    if (failure.code === 'insufficient_storage') return this.#withFigure(failure, of, place);
    if (failure.code !== 'unavailable' || failure instanceof NotSent || incoming === undefined) return failure;
    const message = `${failure.message} before the upload was confirmed: nothing of it is there in part; GET says whether all of it is`;
    return new AppError('unavailable', message, { cause: failure, retryAfterS: failure.retryAfterS ?? 1 });
  }

  async #withFigure(full: AppError, { signal }: FilesOf, place: FilesPlace): Promise<AppError> {
    const usage = await this.#options.client.usage(place, signal).catch(() => undefined);
    const figure = usage === undefined ? '' : `; the agent's volume holds ${usage.bytes} bytes`;
    return new AppError(full.code, `${full.message}${figure}`, { cause: full });
  }
}
