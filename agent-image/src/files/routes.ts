import type { ServerResponse } from 'node:http';
import { BodyRoom, type Request } from '../body.js';
import { AGENT_ID } from '../config.js';
import { HttpError } from '../errors.js';
import type { Response } from '../sse.js';
import { formatOf, unpack, withPacked } from './archives.js';
import { inFolder, inWorkspace, makeFolder, move, remove } from './changing.js';
import type { Guard } from './conditions.js';
import type { Departed } from './departed.js';
import { FileError } from './file-error.js';
import { listPage, readCursor } from './listing.js';
import { packTar, packZip, type Send } from './packing.js';
import { segmentsOf } from './place.js';
import { answerWithFile, breakOff, write } from './reading.js';
import { keepState, packState } from './state.js';
import { answering, type Volume } from './volume.js';
import { writeFile } from './writing.js';

export interface FileRoutesOptions {
  volume: Volume;
  /** The incarnation of the agent of that id, if one is configured. */
  incarnationOf(agentId: string): string | undefined;
  departed: Departed;
  /** Resolves when no turn of that agent runs, or has run for too long to wait. */
  settled(agentId: string): Promise<void>;
}

/** A file call, taken apart. */
interface Call {
  agentId: string;
  request: Request;
  response: Response;
  query: URLSearchParams;
  /** The path behind `files/`, decoded. */
  path: string;
}

type Handler = (call: Call) => Promise<void>;

const PREFIX = '/berth/v1/agents/';
const MOST_JSON_BYTES = 64 * 1024;
const MOST_LISTED = 1000;
const MOST_AT_ONCE = 64;
/** Archives take more: a compressor, a decoder, folders held open. */
const MOST_ARCHIVES_AT_ONCE = 4;

/** Everything that Berth does to the files of agents: `/berth/v1/agents/{agent}/…`. */
export class FileRoutes {
  readonly #options: FileRoutesOptions;
  readonly #routes: Record<string, Record<string, Handler>>;
  readonly #bodies = new BodyRoom(1024 * 1024);
  #running = 0;
  #archives = 0;

  constructor(options: FileRoutesOptions) {
    this.#options = options;
    this.#routes = {
      files: { GET: (call) => this.#read(call), PUT: (call) => this.#write(call), DELETE: (call) => this.#remove(call) },
      list: { GET: (call) => this.#list(call) },
      move: { POST: (call) => this.#move(call) },
      folder: { POST: (call) => this.#makeFolder(call) },
      disk: { GET: (call) => this.#disk(call) },
      archive: {
        GET: (call) => this.#oneOfFew(() => this.#pack(call)),
        PUT: (call) => this.#oneOfFew(() => this.#unpack(call)),
      },
      state: {
        GET: (call) => this.#oneOfFew(() => this.#packState(call)),
        PUT: (call) => this.#oneOfFew(() => this.#keepState(call)),
      },
    };
  }

  /** The handler of a file call, or undefined where the path is not one of ours. Throws 405 for a wrong method. */
  find(request: Request): ((request: Request, response: Response) => Promise<void>) | undefined {
    const [path, query = ''] = split(request.url ?? '', '?');
    if (!path.startsWith(PREFIX)) return undefined;
    const [agentId, below = ''] = split(path.slice(PREFIX.length), '/');
    const [word, rest] = split(below, '/');
    const methods =
      Object.hasOwn(this.#routes, word) && (rest === undefined) === (word !== 'files') ? this.#routes[word] : undefined;
    if (!methods) return undefined;
    const handler = methods[request.method === 'HEAD' ? 'GET' : (request.method ?? '')];
    if (!handler)
      throw new HttpError(405, 'invalid_request_error', 'Method not allowed.', { allow: Object.keys(methods).join(', ') });
    return (_request, response) => {
      const call = { agentId: decoded(agentId), request, response, query: new URLSearchParams(query), path: decoded(rest ?? '') };
      // A state comes for an agent that is not here yet, or is that of one that is here no more; all else is about one that is.
      if (word !== 'state' && this.#options.incarnationOf(call.agentId) === undefined)
        throw new FileError('not_found', 'There is no such agent here.');
      return this.#run(handler, call);
    };
  }

  async #run(handler: Handler, call: Call): Promise<void> {
    if (this.#running >= MOST_AT_ONCE) throw new FileError('busy', 'Too many file calls at once; try again.');
    this.#running += 1;
    try {
      await answering(() => handler(call));
    } catch (error) {
      stopSending(call);
      throw error;
    } finally {
      this.#running -= 1;
    }
  }

  async #read({ agentId, path, request, response }: Call): Promise<void> {
    await inWorkspace(this.#options.volume, agentId, (root) => answerWithFile(root, segmentsOf(path), request, response));
  }

  async #write({ agentId, path, request, response }: Call): Promise<void> {
    const segments = segmentsOf(path);
    if (segments.length === 0 || path.endsWith('/')) throw new FileError('is_folder', 'path: must name a file');
    const options = { agentId, segments, guard: guardOf(request), limitBytes: quotaOf(request) };
    const { created, written } = await writeFile(this.#options.volume, request, options);
    answer(response, created ? 201 : 200, written, { etag: written.etag });
  }

  async #remove({ agentId, path, query, request, response }: Call): Promise<void> {
    const recursive = flag(query, 'recursive');
    await remove(this.#options.volume, { agentId, segments: segmentsOf(path), recursive, guard: guardOf(request) });
    (response as ServerResponse).writeHead(204);
    response.end();
  }

  async #list({ agentId, query, response }: Call): Promise<void> {
    const at = segmentsOf(query.get('path') ?? '');
    const limit = Number(query.get('limit') ?? MOST_LISTED);
    if (!Number.isInteger(limit) || limit < 1 || limit > MOST_LISTED)
      throw new FileError('bad_request', `limit: must be a whole number from 1 to ${MOST_LISTED}`);
    const options = { at, limit, recursive: flag(query, 'recursive'), after: readCursor(query.get('cursor') ?? '') };
    const page = await inFolder(this.#options.volume, { agentId, segments: at }, (folder) => listPage(folder, options));
    answer(response, 200, { entries: page.entries, next_cursor: page.cursor });
  }

  async #move({ agentId, request, response }: Call): Promise<void> {
    const body = await this.#json(request);
    const from = segmentsOf(textField(body, 'from'), 'from');
    const to = segmentsOf(textField(body, 'to'), 'to');
    const { entry, replaced } = await move(this.#options.volume, { agentId, from, to, overwrite: body['overwrite'] === true });
    answer(response, replaced ? 200 : 201, entry);
  }

  async #makeFolder({ agentId, request, response }: Call): Promise<void> {
    const segments = segmentsOf(textField(await this.#json(request), 'path'));
    const { entry, created } = await makeFolder(this.#options.volume, { agentId, segments });
    answer(response, created ? 201 : 200, entry);
  }

  async #disk({ query, response }: Call): Promise<void> {
    answer(response, 200, await this.#options.volume.usage.figures(flag(query, 'fresh') ? 0 : FRESH_FOR_ASKERS_MS));
  }

  async #pack({ agentId, query, request, response }: Call): Promise<void> {
    const format = formatOf(query.get('format'));
    const segments = segmentsOf(query.get('path') ?? '');
    await withPacked(this.#options.volume, { agentId, segments }, (folder) =>
      sendArchive(request, response, TYPES[format], (send) =>
        format === 'tar' ? packTar([{ folder, prefix: '' }], send) : packZip(folder, send),
      ),
    );
  }

  async #unpack({ agentId, query, request, response }: Call): Promise<void> {
    const unpacked = await unpack(this.#options.volume, request, {
      agentId,
      segments: segmentsOf(query.get('path') ?? ''),
      format: formatOf(query.get('format')),
      limitBytes: quotaOf(request),
      mostBytes: bytesHeader(request, 'x-berth-limit'),
    });
    answer(response, 200, unpacked);
  }

  async #packState({ agentId, query, request, response }: Call): Promise<void> {
    const { volume, departed, settled, incarnationOf } = this.#options;
    const wanted = query.get('incarnation');
    if (wanted !== null && departed.has(wanted))
      return sendArchive(request, response, TYPES.tar, (send) => departed.pack(wanted, send));
    const present = incarnationOf(agentId);
    if (present === undefined || (wanted !== null && wanted !== present))
      throw new FileError('not_found', 'There is no such agent here.');
    await settled(agentId);
    await sendArchive(request, response, TYPES.tar, (send) => packState(volume, agentId, send));
  }

  async #keepState({ agentId, query, request, response }: Call): Promise<void> {
    if (!AGENT_ID.test(agentId)) throw new FileError('bad_request', 'agent: is not an id of one');
    const incarnation = query.get('incarnation') ?? '';
    if (incarnation !== '' && this.#options.incarnationOf(agentId) === incarnation)
      throw new FileError('exists', 'That agent is here already.');
    answer(response, 201, await keepState(this.#options.volume, request, { agentId, incarnation, limitBytes: quotaOf(request) }));
  }

  async #oneOfFew(work: () => Promise<void>): Promise<void> {
    if (this.#archives >= MOST_ARCHIVES_AT_ONCE) throw new FileError('busy', 'Too many archives at once; try again.');
    this.#archives += 1;
    try {
      await work();
    } finally {
      this.#archives -= 1;
    }
  }

  async #json(request: Request): Promise<Record<string, unknown>> {
    const body = await this.#bodies.read(request, MOST_JSON_BYTES);
    body.release();
    if (typeof body.value !== 'object' || body.value === null) throw new FileError('bad_request', 'body: must be an object');
    return body.value as Record<string, unknown>;
  }
}

/** A refused body is not read to its end, which could be a gigabyte away: once the answer is out, the stream is closed. */
function stopSending({ request, response }: Call): void {
  if ('stream' in request && !request.stream.readableEnded) response.once('finish', () => request.stream.close());
}

/** Who asks for the figures gets those of now, or of a moment ago. */
const FRESH_FOR_ASKERS_MS = 2000;

function split(text: string, at: string): [string, string?] {
  const index = text.indexOf(at);
  return index < 0 ? [text] : [text.slice(0, index), text.slice(index + 1)];
}

/** Percent-decoded once, as a whole: `%2F` is a slash like any other, and what it makes of the path is checked after. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new FileError('bad_path', 'path: must be percent-encoded UTF-8');
  }
}

function guardOf({ headers }: Request): Guard {
  return { match: headers['if-match'], noneMatch: headers['if-none-match'] };
}

function quotaOf(request: Request): number | undefined {
  return bytesHeader(request, 'x-berth-quota');
}

function bytesHeader(request: Request, name: string): number | undefined {
  const given = request.headers[name];
  if (given === undefined) return undefined;
  if (typeof given !== 'string' || !/^\d{1,15}$/.test(given))
    throw new FileError('bad_request', `${name}: must be a number of bytes`);
  return Number(given);
}

const TYPES = { tar: 'application/x-tar', zip: 'application/zip' };

/** Answers with an archive as it is packed. What goes wrong before its first byte is an error like any other; after it, a break. */
async function sendArchive(
  request: Request,
  response: Response,
  type: string,
  pack: (send: Send) => Promise<void>,
): Promise<void> {
  const begin = () => response.headersSent || (response as ServerResponse).writeHead(200, { 'content-type': type });
  if (request.method === 'HEAD') {
    begin();
    response.end();
    return;
  }
  try {
    await pack((piece) => {
      begin();
      return write(response, piece);
    });
    begin();
    response.end();
  } catch (error) {
    if (!response.headersSent) throw error;
    breakOff(response);
  }
}

function flag(query: URLSearchParams, name: string): boolean {
  const value = query.get(name) ?? 'false';
  if (!['true', 'false', '1', '0', ''].includes(value)) throw new FileError('bad_request', `${name}: must be true or false`);
  return value === 'true' || value === '1';
}

function textField(body: Record<string, unknown>, name: string): string {
  const value = body[name];
  if (typeof value !== 'string') throw new FileError('bad_request', `${name}: must be a string`);
  return value;
}

function answer(response: Response, status: number, body: object, headers: Record<string, string> = {}): void {
  const json = JSON.stringify(body);
  if (response.destroyed || response.writableEnded) return;
  (response as ServerResponse).writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(json),
    ...headers,
  });
  response.end(json);
}
