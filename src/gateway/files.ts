import type { Readable } from 'node:stream';
import { AppError, NotSent } from '../lib/errors.js';
import { joinSignals } from '../lib/joined-signal.js';
import type { LinkHost } from '../link/host.js';
import type { Link, LinkRequest, LinkResponse } from '../link/link.js';
import {
  countsIn,
  type ListedFile,
  listedFile,
  listingIn,
  objectIn,
  type OpenedFile,
  openedFile,
  refusal,
  type WrittenFile,
  writtenFile,
} from './files-answer.js';
import { readCapped } from './gateway.js';

/** Whose files: the agent by its id in the gateway, which is its name. */
export interface FilesPlace {
  instanceId: string;
  agent: string;
}

/** Bytes for the gateway. They are taken no faster than it takes them. */
export interface Upload {
  body: Readable;
  lengthBytes: number | undefined;
  /** The most that the whole volume may hold. */
  quotaBytes: number;
}

export type ArchiveFormat = 'tar' | 'zip';

export interface FileTimes {
  /** To the headers of an answer for which the gateway has to do next to nothing. */
  headersMs: number;
  /** Silence in the midst of a body, whichever way it goes. */
  stallMs: number;
  /** From the last byte of an upload to its answer: the disk has to take all of it, and an archive is put in place. */
  settleMs: number;
}

const TIMES: FileTimes = { headersMs: 30_000, stallMs: 60_000, settleMs: 600_000 };
/** Node's timers go no further. */
const NO_TIMEOUT_MS = 2_147_483_647;
/** A thousand entries with the longest paths there are. */
const LIST_LIMIT_BYTES = 8 * 1024 * 1024;

const FOLDER_WORDS = 'that is a folder: list it with GET …/files?path=, or download it with GET …/archive?path=';

/** Client of the files of an instance's agents (agent-image/README.md), over its link. All answers are hostile input. */
export class FilesClient {
  readonly #links: LinkHost;
  readonly #times: FileTimes;

  constructor({ links, times }: { links: LinkHost; times?: Partial<FileTimes> | undefined }) {
    this.#links = links;
    this.#times = { ...TIMES, ...times };
  }

  /** Opens a file, or asks for its headers alone. Destroying the body ends the reading at its other end. */
  async open(
    place: FilesPlace,
    path: string,
    how: { method: 'GET' | 'HEAD'; headers: Record<string, string> },
    signal: AbortSignal,
  ): Promise<OpenedFile> {
    const response = await this.#ask(place, how.method, `files/${encoded(path)}`, { headers: how.headers }, signal);
    if (![200, 206, 304].includes(response.status)) throw await refusal(response, FOLDER_WORDS);
    try {
      return { ...openedFile(response, how.method), body: response.body };
    } catch (error) {
      response.body.destroy();
      throw error;
    }
  }

  /** Writes a file, whole or not at all. `guard`: `If-Match` or `If-None-Match` as the gateway checks them. */
  async write(
    place: FilesPlace,
    path: string,
    upload: Upload,
    guard: Record<string, string>,
    signal: AbortSignal,
  ): Promise<WrittenFile> {
    const response = await this.#send(place, `files/${encoded(path)}`, upload, guard, signal);
    if (!isDone(response)) throw await refusal(response);
    return writtenFile(response.status, await this.#object(response));
  }

  async remove(
    place: FilesPlace,
    path: string,
    recursive: boolean,
    guard: Record<string, string>,
    signal: AbortSignal,
  ): Promise<void> {
    const target = `files/${encoded(path)}${recursive ? '?recursive=true' : ''}`;
    const response = await this.#ask(place, 'DELETE', target, { headers: guard, timeoutMs: this.#times.settleMs }, signal);
    await this.#done(response, 'that is a folder: say ?recursive=true to delete it with all that is in it');
  }

  async list(
    place: FilesPlace,
    query: { path: string; recursive: boolean; cursor: string | undefined; limit: number },
    signal: AbortSignal,
  ): Promise<{ entries: ListedFile[]; nextCursor: string | null }> {
    const { path, recursive, cursor, limit } = query;
    const params = new URLSearchParams({ path, recursive: String(recursive), limit: String(limit) });
    if (cursor !== undefined) params.set('cursor', cursor);
    const response = await this.#ask(place, 'GET', `list?${params.toString()}`, {}, signal);
    if (response.status !== 200) throw await refusal(response);
    return listingIn(await this.#object(response, LIST_LIMIT_BYTES), limit);
  }

  /** Answers what is at the new place. */
  async move(
    place: FilesPlace,
    move: { from: string; to: string; overwrite: boolean },
    signal: AbortSignal,
  ): Promise<ListedFile> {
    const response = await this.#ask(place, 'POST', 'move', jsonOf(move), signal);
    if (!isDone(response)) throw await refusal(response);
    return listedFile(await this.#object(response));
  }

  async makeFolder(place: FilesPlace, path: string, signal: AbortSignal): Promise<ListedFile & { isNew: boolean }> {
    const response = await this.#ask(place, 'POST', 'folder', jsonOf({ path }), signal);
    if (!isDone(response)) throw await refusal(response);
    return { ...listedFile(await this.#object(response)), isNew: response.status === 201 };
  }

  /** A folder as an archive, packed as it is read. One that cannot be finished ends in an error. */
  async pack(place: FilesPlace, path: string, format: ArchiveFormat, signal: AbortSignal): Promise<Readable> {
    const response = await this.#ask(place, 'GET', `archive?${archiveQuery(path, format)}`, {}, signal);
    if (response.status !== 200) throw await refusal(response);
    return response.body;
  }

  /** Unpacks an archive into a folder, whole or not at all. */
  async unpack(
    place: FilesPlace,
    path: string,
    format: ArchiveFormat,
    upload: Upload,
    signal: AbortSignal,
  ): Promise<{ files: number; bytes: number }> {
    const response = await this.#send(place, `archive?${archiveQuery(path, format)}`, upload, {}, signal);
    if (!isDone(response)) throw await refusal(response);
    return countsIn(await this.#object(response));
  }

  /** What the whole volume of the deployment holds. */
  async usage(place: FilesPlace, signal: AbortSignal): Promise<{ files: number; bytes: number }> {
    const response = await this.#ask(place, 'GET', 'disk', {}, signal);
    if (response.status !== 200) throw await refusal(response);
    return countsIn(await this.#object(response));
  }

  #ask(
    place: FilesPlace,
    method: string,
    target: string,
    more: Pick<LinkRequest, 'headers' | 'body'> & { timeoutMs?: number },
    signal: AbortSignal,
  ): Promise<LinkResponse> {
    const path = `/berth/v1/agents/${encodeURIComponent(place.agent)}/${target}`;
    return this.#link(place.instanceId).request({ timeoutMs: this.#times.headersMs, ...more, method, path, signal });
  }

  /** An upload has its answer when all of it was taken, so it is not the time to the headers that counts but that it goes on. */
  async #send(
    place: FilesPlace,
    target: string,
    { body, lengthBytes, quotaBytes }: Upload,
    guard: Record<string, string>,
    signal: AbortSignal,
  ): Promise<LinkResponse> {
    const headers: Record<string, string> = { ...guard, 'x-berth-quota': String(quotaBytes) };
    if (lengthBytes !== undefined) headers['content-length'] = String(lengthBytes);
    const watch = new UploadWatch(body, this.#times);
    const joined = joinSignals(signal, watch.signal);
    try {
      const answer = this.#ask(place, 'PUT', target, { headers, body, timeoutMs: NO_TIMEOUT_MS }, joined.signal);
      watch.begin();
      return await answer;
    } finally {
      watch.end();
      joined.release();
    }
  }

  async #done(response: LinkResponse, aboutFolder?: string): Promise<void> {
    if (!isDone(response)) throw await refusal(response, aboutFolder);
    await readCapped(response.body, this.#times.stallMs);
  }

  async #object(response: LinkResponse, limitBytes?: number): Promise<Record<string, unknown>> {
    return objectIn(await readCapped(response.body, this.#times.stallMs, limitBytes));
  }

  #link(instanceId: string): Link {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    return link;
  }
}

/** Looks after an upload from this side: an instance that takes no more of it, or has all of it and does not answer, is given up. */
class UploadWatch {
  readonly #body: Readable;
  readonly #times: FileTimes;
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #movedMs = performance.now();
  #listens = false;
  readonly #onMove = (): void => void (this.#movedMs = performance.now());

  constructor(body: Readable, times: FileTimes) {
    this.#body = body;
    this.#times = times;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  begin(): void {
    const { stallMs, settleMs } = this.#times;
    this.#timer = setInterval(() => this.#look(), Math.min(stallMs, settleMs) / 4);
  }

  end(): void {
    clearInterval(this.#timer);
    if (this.#listens) this.#body.off('data', this.#onMove).off('end', this.#onMove).off('resume', this.#onMove);
  }

  /** Only once the body flows: to listen for its pieces before would set it going with nobody to take them. */
  #listen(): void {
    if (this.#listens || this.#body.readableFlowing === null) return;
    this.#listens = true;
    this.#body.on('data', this.#onMove).on('end', this.#onMove).on('resume', this.#onMove);
  }

  #look(): void {
    this.#listen();
    const { stallMs, settleMs } = this.#times;
    const quietMs = performance.now() - this.#movedMs;
    if (this.#body.readableEnded && quietMs > settleMs) {
      this.#abort.abort(new AppError('timeout', `the agent's container did not confirm the upload within ${settleMs / 1000} s`));
    } else if (this.#body.isPaused() && quietMs > stallMs) {
      this.#abort.abort(new AppError('timeout', `the agent's container took nothing of the upload for ${stallMs / 1000} s`));
    }
  }
}

function isDone({ status }: LinkResponse): boolean {
  return status >= 200 && status <= 299;
}

function encoded(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

function archiveQuery(path: string, format: ArchiveFormat): string {
  return new URLSearchParams({ path, format }).toString();
}

function jsonOf(value: object): Pick<LinkRequest, 'headers' | 'body'> {
  return { headers: { 'content-type': 'application/json' }, body: JSON.stringify(value) };
}
