import type { ServerResponse } from 'node:http';
import { BodyRoom, type Request } from '../body.js';
import { HttpError } from '../errors.js';
import type { Response } from '../sse.js';
import { inFolder, inWorkspace, makeFolder, move, remove } from './changing.js';
import type { Guard } from './conditions.js';
import { FileError } from './file-error.js';
import { listPage, readCursor } from './listing.js';
import { segmentsOf } from './place.js';
import { answerWithFile } from './reading.js';
import { answering, type Volume } from './volume.js';
import { writeFile } from './writing.js';

export interface FileRoutesOptions {
  volume: Volume;
  /** Whether an agent of that id is configured. */
  knows(agentId: string): boolean;
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

/** Everything that Berth does to the files of agents: `/berth/v1/agents/{agent}/…`. */
export class FileRoutes {
  readonly #options: FileRoutesOptions;
  readonly #routes: Record<string, Record<string, Handler>>;
  readonly #bodies = new BodyRoom(1024 * 1024);
  #running = 0;

  constructor(options: FileRoutesOptions) {
    this.#options = options;
    this.#routes = {
      files: { GET: (call) => this.#read(call), PUT: (call) => this.#write(call), DELETE: (call) => this.#remove(call) },
      list: { GET: (call) => this.#list(call) },
      move: { POST: (call) => this.#move(call) },
      folder: { POST: (call) => this.#makeFolder(call) },
      disk: { GET: (call) => this.#disk(call) },
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
    return (_request, response) =>
      this.#run(handler, {
        agentId: decoded(agentId),
        request,
        response,
        query: new URLSearchParams(query),
        path: decoded(rest ?? ''),
      });
  }

  async #run(handler: Handler, call: Call): Promise<void> {
    if (!this.#options.knows(call.agentId)) throw new FileError('not_found', 'There is no such agent here.');
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
  const given = request.headers['x-berth-quota'];
  if (given === undefined) return undefined;
  if (typeof given !== 'string' || !/^\d{1,15}$/.test(given))
    throw new FileError('bad_request', 'x-berth-quota: must be a number of bytes');
  return Number(given);
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
