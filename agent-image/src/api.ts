import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { BodyRoom, type Request } from './body.js';
import { parseChatRequest } from './chat-request.js';
import { StreamedCompletion, WholeCompletion, modelErrorBody, type ErrorBody } from './completion.js';
import { parseConfig, parseRelease } from './config.js';
import { HttpError, ModelError, TurnStopped, invalid } from './errors.js';
import type { FileRoutes } from './files/routes.js';
import type { KeptTurns } from './kept-turns.js';
import type { Leases } from './leases.js';
import { errorCode, type Log } from './log.js';
import type { Packages } from './packages/packages.js';
import type { Roster } from './roster.js';
import type { RunningTurns } from './running.js';
import { type EventSink, EventStream, type Response } from './sse.js';
import type { TurnEnd, TurnInput, TurnOutput, Turns } from './turn.js';
import { TurnRoutes } from './turn-routes.js';
import { traceIdOf, traceparentIn } from './trace.js';

export interface ApiOptions {
  roster: Roster;
  turns: Turns;
  running: RunningTurns;
  kept: KeptTurns;
  packages: Packages;
  files: FileRoutes;
  leases: Leases;
  log: Log;
}

/** What is known of the connection that a request came on. */
export interface Origin {
  /** Whether it may use more than the health routes. */
  proven: boolean;
  /** The socket of the Berth process at its other end, where there is one. */
  socket: string | undefined;
  /** Whether the whole connection is gone, and not only this request. */
  linkLost(): boolean;
}

/** `parts` are what a path's pattern has caught, as they stand in the path: still percent-encoded. */
type Handler = (request: Request, response: Response, origin: Origin, parts: readonly string[]) => Promise<void> | void;

interface Route {
  open?: boolean;
  methods: Record<string, Handler>;
}

const MOST_CHAT_BYTES = 20 * 1024 * 1024;
/** A config stays in memory for good. */
const MOST_CONFIG_BYTES = 8 * 1024 * 1024;
const MOST_BODIES_BYTES = 24 * 1024 * 1024;
/** What the LLM gateway says of the request itself is the caller's business; all else is a failure behind us. */
const PASSED_STATUSES = new Set([400, 402, 413, 429]);
const PACKAGE = /^\/berth\/v1\/packages\/([0-9a-f]{64})$/;
const AGENT_CONTEXT = /^\/berth\/v1\/agents\/([^/]+)\/context$/;
const TURN_ID = /^[\w.:-]{1,128}$/;
const AGENT_CONVERSATION = /^\/berth\/v1\/agents\/([^/]+)\/conversations\/([\w.:-]{1,128})$/;
const TURN = /^\/berth\/v1\/turns\/([\w.:-]{1,128})$/;
const TURN_WRITTEN = /^\/berth\/v1\/turns\/([\w.:-]{1,128})\/written$/;
const TURN_CANCEL = /^\/berth\/v1\/turns\/([\w.:-]{1,128})\/cancel$/;

/** The gateway's HTTP interface, the same over the link (HTTP/2) and on a port (HTTP/1.1). */
export class Api {
  readonly #options: ApiOptions;
  readonly #bodies = new BodyRoom(MOST_BODIES_BYTES);
  readonly #routes: Map<string, Route>;
  /** Routes of paths that vary, in the order in which they are tried. */
  readonly #patterns: [RegExp, Route][];
  #draining = false;

  constructor(options: ApiOptions) {
    this.#options = options;
    const turns = new TurnRoutes({ ...options, bodies: this.#bodies });
    const health: Handler = (_request, response) => sendJson(response, 200, { ok: true, status: 'live' });
    const ready: Handler = (_request, response) => this.#ready(response);
    this.#routes = new Map<string, Route>([
      ['/healthz', { open: true, methods: { GET: health } }],
      ['/readyz', { open: true, methods: { GET: ready } }],
      ['/berth/v1/activity', { methods: { GET: (_request, response) => this.#activity(response) } }],
      ['/v1/models', { methods: { GET: (_request, response) => this.#models(response) } }],
      ['/v1/chat/completions', { methods: { POST: (request, response, origin) => this.#chat(request, response, origin) } }],
      [
        '/berth/v1/release',
        {
          methods: {
            GET: (_request, response) => sendJson(response, 200, { released: this.#options.roster.releases.ids }),
            POST: (request, response) => this.#release(request, response),
          },
        },
      ],
      ['/berth/v1/config', { methods: { PUT: (request, response) => this.#configure(request, response) } }],
    ]);
    this.#patterns = [
      [
        PACKAGE,
        {
          methods: {
            GET: (_request, response, _origin, [digest]) => this.#package(response, digest as string),
            PUT: (request, response, _origin, [digest]) => this.#receivePackage(request, response, digest as string),
          },
        },
      ],
      [AGENT_CONTEXT, { methods: { GET: (_request, response, _origin, [agent]) => this.#context(response, agent as string) } }],
      [
        AGENT_CONVERSATION,
        {
          methods: {
            DELETE: (_request, response, _origin, [agent, user]) => this.#forget(response, agent as string, user as string),
          },
        },
      ],
      [TURN, { methods: { GET: (request, response, _origin, [turn]) => turns.follow(request, response, turn as string) } }],
      [
        TURN_WRITTEN,
        {
          methods: {
            PUT: async (request, response, _origin, [turn]) =>
              sendJson(response, 200, await turns.written(request, turn as string)),
          },
        },
      ],
      [
        TURN_CANCEL,
        { methods: { POST: (_request, response, _origin, [turn]) => sendJson(response, 202, turns.cancel(turn as string)) } },
      ],
    ];
  }

  /** Takes no new turns from now on. */
  drain(): void {
    this.#draining = true;
  }

  /** Answers one request, whatever it is. Never rejects. */
  async handle(request: Request, response: Response, origin: Origin): Promise<void> {
    try {
      const { handler, parts } = this.#route(request, origin);
      await handler(request, response, origin, parts);
    } catch (error) {
      this.#sendError(request, response, error);
    }
  }

  #route(request: Request, origin: Origin): { handler: Handler; parts: string[] } {
    const path = (request.url ?? '').split('?', 1)[0] as string;
    const { route, parts } = this.#find(path);
    if (!origin.proven && !route?.open) throw new HttpError(401, 'unauthorized', 'Unauthorized');
    const ofFiles = this.#options.files.find(request);
    if (ofFiles) return { handler: ofFiles, parts: [] };
    if (!route) throw new HttpError(404, 'not_found', 'There is nothing at this path.');
    const handler = route.methods[request.method === 'HEAD' ? 'GET' : (request.method ?? '')];
    if (!handler)
      throw new HttpError(405, 'invalid_request_error', 'Method not allowed.', { allow: Object.keys(route.methods).join(', ') });
    return { handler, parts };
  }

  #find(path: string): { route: Route | undefined; parts: string[] } {
    const route = this.#routes.get(path);
    if (route) return { route, parts: [] };
    for (const [pattern, varying] of this.#patterns) {
      const match = pattern.exec(path);
      if (match) return { route: varying, parts: match.slice(1) };
    }
    return { route: undefined, parts: [] };
  }

  #ready(response: Response): void {
    const failing = [...(this.#options.roster.version === undefined ? ['config'] : []), ...(this.#draining ? ['draining'] : [])];
    if (failing.length > 0) sendJson(response, 503, { ready: false, failing });
    else sendJson(response, 200, { ready: true });
  }

  #activity(response: Response): void {
    const { roster, running, leases } = this.#options;
    sendJson(response, 200, { busy_s: leases.busySeconds(roster.ids, running.size) });
  }

  #models(response: Response): void {
    const data = this.#options.roster.ids.map((id) => ({
      id: `openclaw/${id}`,
      object: 'model',
      created: 0,
      owned_by: 'openclaw',
    }));
    sendJson(response, 200, { object: 'list', data });
  }

  async #configure(request: Request, response: Response): Promise<void> {
    const body = await this.#bodies.read(request, MOST_CONFIG_BYTES);
    try {
      sendJson(response, 200, await this.#options.roster.apply(checked(() => parseConfig(body.value))));
    } finally {
      body.release();
    }
  }

  async #release(request: Request, response: Response): Promise<void> {
    const body = await this.#bodies.read(request, MOST_CONFIG_BYTES);
    try {
      const released = await this.#options.roster.releases.release(checked(() => parseRelease(body.value)));
      sendJson(response, 200, { released });
    } finally {
      body.release();
    }
  }

  async #package(response: Response, digest: string): Promise<void> {
    if (!(await this.#options.packages.has(digest)))
      throw new HttpError(404, 'not_found', 'There is no such package here.', {}, { code: 'not_found' });
    sendJson(response, 200, { digest });
  }

  async #receivePackage(request: Request, response: Response, digest: string): Promise<void> {
    await this.#options.packages.receive(digest, request);
    sendJson(response, 201, { digest });
  }

  /** What the agent's next turn will send, put together by what puts it together for a turn. */
  #context(response: Response, agentId: string): void {
    const agent = this.#options.roster.get(agentId);
    if (!agent) throw new HttpError(404, 'not_found', 'There is no such agent here.', {}, { code: 'not_found' });
    sendJson(response, 200, this.#options.turns.describe(agent));
  }

  /** Nothing of that conversation is here when the answer comes. */
  async #forget(response: Response, agentId: string, user: string): Promise<void> {
    const { roster, turns } = this.#options;
    if (!roster.get(agentId)) throw new HttpError(404, 'not_found', 'There is no such agent here.', {}, { code: 'not_found' });
    await turns.forget(agentId, user);
    sendJson(response, 200, { deleted: true });
  }

  async #chat(request: Request, response: Response, origin: Origin): Promise<void> {
    if (this.#draining) throw new HttpError(503, 'unavailable', 'The instance is stopping.');
    if (this.#options.roster.version === undefined) throw new HttpError(503, 'unavailable', 'No config was applied yet.');
    if (this.#options.roster.mode === 'files')
      throw new HttpError(
        503,
        'unavailable',
        'The instance was woken for its files alone: no turn may run.',
        {},
        { code: 'files_only' },
      );
    const body = await this.#bodies.read(request, MOST_CHAT_BYTES);
    try {
      const chat = checked(() => parseChatRequest(body.value, body.bytes));
      // The parsed form is dropped: what a turn needs of it is in `chat`.
      body.value = undefined;
      if (chat.agentId !== undefined && this.#options.roster.releases.has(chat.agentId))
        throw new HttpError(503, 'unavailable', 'Another instance has the agent.', {}, { code: 'released' });
      const agent = this.#options.roster.find(chat.agentId);
      this.#options.turns.check({ agent, request: chat });
      const given = request.headers['x-berth-turn'];
      const turnId = typeof given === 'string' && TURN_ID.test(given) ? given : `trn_${randomBytes(13).toString('hex')}`;
      const withTools = request.headers['x-berth-events'] === '1';
      const allNew = request.headers['x-berth-new'] === 'all';
      const traceparent = traceparentIn(request);
      const kept = request.headers['x-berth-keep'] === '1' && chat.stream;
      const begun = kept ? this.#options.kept.get(turnId) : undefined;
      // Asked for twice, as by a Berth process that cannot know whether its word had come: it runs once.
      if (begun?.holdsAfter(0)) return begun.follow(response, 0);
      if (begun) throw new HttpError(409, 'conflict', 'The turn has run already.', {}, { code: 'begun' });
      const input = { turnId, traceparent, agent, request: chat, socket: origin.socket, allNew, kept };
      await this.#turn(input, response, origin, withTools);
    } finally {
      body.release();
    }
  }

  /** Runs the turn and answers with it. A client that goes away ends it, unless it is kept; a lost link does not. */
  async #turn(input: TurnInput, response: Response, origin: Origin, withTools: boolean): Promise<void> {
    const controller = new AbortController();
    response.once('close', () => {
      if (!input.kept && !response.writableEnded && !origin.linkLost()) controller.abort(new TurnStopped('disconnected'));
    });
    const answer = input.request.stream
      ? this.#streamed(input, response, withTools, controller.signal)
      : this.#whole(input, response);
    const ids = { agentId: input.agent.id, turnId: input.turnId };
    await this.#options.running.run(ids, controller, async (signal) => {
      const started = performance.now();
      let outcome = 'failed';
      try {
        const end = await this.#options.turns.run(input, answer.output, signal);
        outcome = end.finish;
        answer.succeed(end);
      } catch (error) {
        outcome = error instanceof TurnStopped ? error.why : errorCode(error);
        answer.fail(error);
      } finally {
        if (input.kept) this.#options.kept.ended(input.turnId);
        const durationMs = Math.round(performance.now() - started);
        this.#options.log.info('turn ended', {
          agent: input.agent.id,
          turn: input.turnId,
          trace_id: traceIdOf(input.traceparent),
          outcome,
          duration_ms: durationMs,
        });
      }
    });
  }

  #streamed({ turnId, request, kept }: TurnInput, response: Response, withTools: boolean, signal: AbortSignal): Answer {
    const events = kept ? this.#log(turnId, response, signal) : new EventStream(response);
    const output = new StreamedCompletion(events, { turnId, model: request.model, withTools });
    output.begin();
    return {
      output,
      succeed: (end) => output.finish(end, request.includeUsage),
      fail: (error) => output.fail(this.#describe(error).body),
    };
  }

  #log(turnId: string, response: Response, signal: AbortSignal): EventSink {
    const log = this.#options.kept.begin(turnId);
    signal.addEventListener('abort', () => log.release(), { once: true });
    log.follow(response, 0);
    return log;
  }

  #whole({ turnId, request }: TurnInput, response: Response): Answer {
    const output = new WholeCompletion();
    return {
      output,
      succeed: (end) => sendJson(response, 200, output.body(end, { turnId, model: request.model })),
      fail: (error) => {
        throw error;
      },
    };
  }

  #sendError(request: Request, response: Response, error: unknown): void {
    const { status, body, headers } = this.#describe(error);
    if (response.headersSent) return void response.end();
    // What is left of a refused body is read and thrown away, so that the client gets to read the answer.
    request.resume();
    sendJson(response, status, body, headers);
  }

  #describe(error: unknown): { status: number; body: ErrorBody; headers: Record<string, string> } {
    if (error instanceof HttpError) {
      const { code, more } = error.details;
      const body = { error: { message: error.message, type: error.type, ...(code === undefined ? {} : { code }) }, ...more };
      return { status: error.status, body, headers: error.headers };
    }
    if (error instanceof ModelError) {
      return {
        status: PASSED_STATUSES.has(error.status ?? 0) ? (error.status as number) : 502,
        body: modelErrorBody(error),
        headers: {},
      };
    }
    if (error instanceof TurnStopped) {
      return { status: 503, body: { error: { message: error.message, type: 'unavailable', code: error.why } }, headers: {} };
    }
    this.#options.log.error('unexpected error', { code: errorCode(error), at: placeOf(error) });
    return { status: 500, body: { error: { message: 'Internal error of the gateway.', type: 'api_error' } }, headers: {} };
  }
}

/** How a turn's end reaches the client. */
interface Answer {
  output: TurnOutput;
  succeed(end: TurnEnd): void;
  fail(error: unknown): void;
}

function checked<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    // JSON.stringify recurses where JSON.parse does not.
    if (error instanceof RangeError) throw invalid('body: is nested too deeply');
    throw error;
  }
}

function sendJson(response: Response, status: number, body: object, headers: Record<string, string> = {}): void {
  const json = JSON.stringify(body);
  if (response.destroyed || response.writableEnded) return;
  (response as ServerResponse).writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(json),
    ...headers,
  });
  response.end(json);
}

/** Where in our code an unexpected error came from; its message may hold what people wrote, and stays out of the log. */
function placeOf(error: unknown): string {
  return error instanceof Error
    ? (error.stack
        ?.split('\n')
        .find((line) => /^\s+at /.test(line))
        ?.trim() ?? '')
    : '';
}
