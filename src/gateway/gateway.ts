import type { Readable } from 'node:stream';
import { AppError, NotSent } from '../lib/errors.js';
import { type Meters, NO_METERS } from '../lib/meters.js';
import { newId } from '../lib/ids.js';
import { traceHeaders } from '../lib/trace.js';
import type { LinkHost } from '../link/host.js';
import type { Link, LinkResponse } from '../link/link.js';
import type { InstanceConfig, PackageSource } from './instance-config.js';
import { type GatewayMeters, gatewayMeters, noteTurn } from './gateway-meters.js';
import { DEFAULT_STREAM_LIMITS, type GatewayEvent, readGatewayStream, type StreamLimits } from './stream.js';

export type { GatewayEvent } from './stream.js';

/** A turn as the gateway is asked for it (agent-image/README.md). */
export interface GatewayTurn {
  /** The agent's id in the gateway, which is its name. */
  agent: string;
  turnId: string;
  /** What is new; without `user` all that the agent is to know. */
  messages: unknown[];
  /** Key of the conversation that the gateway keeps; absent: stateless. */
  user?: string | undefined;
  /** OpenAI's sampling fields, passed on as they came. */
  sampling?: Record<string, unknown>;
  /** It goes on when nobody reads it, and its events wait until they are written down (`KeptTurnsClient`). */
  keep?: boolean;
}

/** The agent of a rehearsal. */
const REHEARSAL = { id: 'rehearsal', incarnation: 'rehearsal', model: 'demo/echo' };
const REHEARSAL_TIMEOUT_MS = 5_000;

const CONFIG_TIMEOUT_MS = 10_000;
/** To the answer, which comes when the package is unpacked. */
const PACKAGE_TIMEOUT_MS = 60_000;
/** A gateway that goes on missing what it was sent is not asked for ever. */
const PACKAGE_ROUNDS = 2;
const ACTIVITY_TIMEOUT_MS = 1_000;
const UNSURE_S = 5;
/** A link that does not answer after a thaw is cut, with the turns that came while it was frozen: a busy machine must not look like that. */
const THAW_TIMEOUT_MS = 3_000;
/** An agent can ask for so much at a time. */
const MOST_BUSY_S = 3_600;
const PING_TIMEOUT_MS = 5_000;
/** The gateway sends its headers before it asks the model, so this is the time a busy instance may take to begin. */
const TURN_HEADERS_TIMEOUT_MS = 30_000;
const ANSWER_LIMIT_BYTES = 1024 * 1024;

export interface GatewayClientOptions {
  links: LinkHost;
  limits?: Partial<StreamLimits & { headersMs: number }>;
  meters?: Meters;
}

/** Client of the gateways inside instances, each reached over its link. All answers are hostile input: capped, timed, checked. */
export class GatewayClient {
  readonly #links: LinkHost;
  readonly #limits: StreamLimits & { headersMs: number };
  readonly #meters: GatewayMeters;

  constructor({ links, limits, meters = NO_METERS }: GatewayClientOptions) {
    this.#meters = gatewayMeters(meters);
    this.#links = links;
    this.#limits = { ...DEFAULT_STREAM_LIMITS, headersMs: TURN_HEADERS_TIMEOUT_MS, ...limits };
  }

  /** Whether this process can reach the instance now. */
  reaches(instanceId: string): boolean {
    return this.#links.get(instanceId) !== undefined;
  }

  /** Tells the gateway which agents it has; it applies them without a restart. Packages of skills that it misses are sent to it first. */
  async configure(instanceId: string, config: InstanceConfig, packages: PackageSource, signal: AbortSignal): Promise<void> {
    const beganMs = performance.now();
    await this.#configure(instanceId, config, packages, signal);
    if (config.agents.length > 0) this.#meters.told((performance.now() - beganMs) / 1000);
  }

  async #configure(instanceId: string, config: InstanceConfig, packages: PackageSource, signal: AbortSignal): Promise<void> {
    let answer = await this.#putConfig(instanceId, config, signal);
    for (let round = 0; round < PACKAGE_ROUNDS && answer.status === 409; round++) {
      const missing = missingIn(answer.text, config);
      if (missing.length === 0) break;
      for (const digest of missing) await this.#putPackage(instanceId, digest, packages, signal);
      answer = await this.#putConfig(instanceId, config, signal);
    }
    const { status, text } = answer;
    if (status !== 200) throw new AppError('upstream_error', `the gateway refused its configuration: ${messageIn(text)}`);
    if (versionIn(text) !== config.version) throw new AppError('upstream_error', 'the gateway did not confirm its configuration');
  }

  async #putConfig(instanceId: string, config: InstanceConfig, signal: AbortSignal): Promise<{ status: number; text: string }> {
    const response = await this.#link(instanceId).request({
      method: 'PUT',
      path: '/berth/v1/config',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(config),
      timeoutMs: CONFIG_TIMEOUT_MS,
      signal,
      isUpkeep: true,
    });
    return { status: response.status, text: await readCapped(response.body, CONFIG_TIMEOUT_MS) };
  }

  async #putPackage(instanceId: string, digest: string, packages: PackageSource, signal: AbortSignal): Promise<void> {
    const tar = await packages(digest);
    if (!tar) throw new AppError('unavailable', 'the files of a skill are not there any more');
    const response = await this.#link(instanceId).request({
      method: 'PUT',
      path: `/berth/v1/packages/${digest}`,
      headers: { 'content-type': 'application/x-tar' },
      body: Buffer.from(tar.buffer, tar.byteOffset, tar.byteLength),
      timeoutMs: PACKAGE_TIMEOUT_MS,
      signal,
      isUpkeep: true,
    });
    const text = await readCapped(response.body, CONFIG_TIMEOUT_MS);
    if (response.status >= 300) throw new AppError('upstream_error', `the gateway refused a skill's files: ${messageIn(text)}`);
  }

  /** Whether the gateway answers at once, as after it was frozen. */
  async isAlive(instanceId: string, signal: AbortSignal): Promise<boolean> {
    try {
      const response = await this.#upkeep(instanceId, '/healthz', THAW_TIMEOUT_MS, signal);
      await readCapped(response.body, THAW_TIMEOUT_MS);
      return response.status === 200;
    } catch {
      return false;
    }
  }

  /**
   * How many seconds the instance must not be frozen or stopped: it works, or one of its agents asked for the time. 0 where there is no link to
   * ask over, or no such question; a gateway that is too slow to answer may be so for its work, and counts as busy for a moment.
   */
  async busyFor(instanceId: string, signal: AbortSignal): Promise<number> {
    try {
      const response = await this.#upkeep(instanceId, '/berth/v1/activity', ACTIVITY_TIMEOUT_MS, signal);
      const text = await readCapped(response.body, ACTIVITY_TIMEOUT_MS);
      return response.status === 200 ? busySecondsIn(text) : 0;
    } catch (error) {
      return error instanceof NotSent ? 0 : UNSURE_S;
    }
  }

  #upkeep(instanceId: string, path: string, timeoutMs: number, signal: AbortSignal): Promise<LinkResponse> {
    return this.#link(instanceId).request({ method: 'GET', path, timeoutMs, signal, isUpkeep: true });
  }

  /** Asks the gateway whether it lives and serves that agent; answers the milliseconds that took. */
  async ping(instanceId: string, agent: string): Promise<number> {
    const begun = performance.now();
    const response = await this.#link(instanceId).request({ method: 'GET', path: '/v1/models', timeoutMs: PING_TIMEOUT_MS });
    const text = await readCapped(response.body, PING_TIMEOUT_MS);
    if (response.status !== 200) throw new AppError('unavailable', `the gateway answered ${response.status}`);
    if (!modelIds(text).includes(`openclaw/${agent}`))
      throw new AppError('unavailable', 'the gateway does not serve this agent yet');
    return performance.now() - begun;
  }

  /**
   * Begins a turn. Resolves with the stream once the gateway has taken it; aborting `signal` cancels it there. Throws `NotSent` where the
   * turn has surely not begun and may be asked for again.
   */
  async turn(instanceId: string, turn: GatewayTurn, signal: AbortSignal): Promise<AsyncGenerator<GatewayEvent>> {
    const beganMs = performance.now();
    const body = await this.#ask(instanceId, turn, signal);
    return noteTurn(readGatewayStream(body, this.#limits), body, beganMs, this.#meters);
  }

  /**
   * Has a gateway whose instance is nobody's do once what it will be asked for first, for an agent that the next config takes away: all that it does is slow
   * the first time, and a first turn after this took 14 ms in place of 34. Nothing comes of it where it does not work.
   */
  async rehearse(instanceId: string, version: number, until: AbortSignal): Promise<void> {
    const signal = AbortSignal.any([until, AbortSignal.timeout(REHEARSAL_TIMEOUT_MS)]);
    try {
      await this.#configure(instanceId, { version, agents: [REHEARSAL] }, async () => undefined, signal);
      const messages = [{ role: 'user', content: 'Is this on?' }];
      // Nobody pays for it, so it ends when the model is refused.
      const body = await this.#ask(instanceId, { agent: REHEARSAL.id, turnId: newId('trn'), messages }, signal, true);
      for await (const _ of readGatewayStream(body, this.#limits)) {
        // Whatever it says.
      }
    } catch {
      // What is wrong with it is said by whoever needs it.
    }
  }

  async #ask(instanceId: string, turn: GatewayTurn, signal: AbortSignal, isUpkeep = false): Promise<Readable> {
    const body = {
      ...turn.sampling,
      model: `openclaw/${turn.agent}`,
      messages: turn.messages,
      stream: true,
      stream_options: { include_usage: true },
      ...(turn.user === undefined ? {} : { user: turn.user }),
    };
    const response = await this.#link(instanceId).request({
      method: 'POST',
      path: '/v1/chat/completions',
      headers: {
        'content-type': 'application/json',
        'x-berth-turn': turn.turnId,
        'x-berth-events': '1',
        'x-berth-new': 'all',
        ...traceHeaders(),
        ...(turn.keep ? { 'x-berth-keep': '1' } : {}),
      },
      body: JSON.stringify(body),
      timeoutMs: this.#limits.headersMs,
      signal,
      isUpkeep,
    });
    if (response.status === 200) return response.body;
    throw await refusal(response);
  }

  #link(instanceId: string): Link {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    return link;
  }
}

async function refusal(response: LinkResponse): Promise<AppError> {
  const message = messageIn(await readCapped(response.body, PING_TIMEOUT_MS));
  if (response.status === 400) return new AppError('invalid_request', message);
  if (response.status === 413) return new AppError('payload_too_large', message);
  if (response.status === 429) return new AppError('rate_limited', message, { retryAfterS: 1 });
  // Said in place of a stream, so no turn has begun: the gateway stops, or has no config yet.
  if (response.status === 503) return new NotSent(message);
  return new AppError('upstream_error', `the gateway answered ${response.status}: ${message}`);
}

/** The message of an OpenAI error object, cut to a length that a person reads. */
export function messageIn(text: string): string {
  try {
    const parsed = JSON.parse(text) as { error?: { message?: unknown } };
    if (typeof parsed.error?.message === 'string') return parsed.error.message.slice(0, 500);
  } catch {
    // Not JSON: said below.
  }
  return 'its answer was not understood';
}

/** `{"busy_s": n}`, held to what is reasonable: the agent decides what its gateway says. */
function busySecondsIn(text: string): number {
  try {
    const seconds = (JSON.parse(text) as { busy_s?: unknown } | null)?.busy_s;
    return typeof seconds === 'number' && seconds > 0 ? Math.min(seconds, MOST_BUSY_S) : 0;
  } catch {
    return 0;
  }
}

/** The version that a gateway says it has applied. */
function versionIn(text: string): unknown {
  try {
    return (JSON.parse(text) as { version?: unknown } | null)?.version;
  } catch {
    return undefined;
  }
}

/** The packages that a gateway says it misses: only such as the config names. */
function missingIn(text: string, config: InstanceConfig): string[] {
  const named = new Set(config.agents.flatMap((agent) => (agent.skills ?? []).map((skill) => skill.digest)));
  try {
    const { missing } = JSON.parse(text) as { missing?: unknown };
    return Array.isArray(missing) ? [...named].filter((digest) => missing.includes(digest)) : [];
  } catch {
    return [];
  }
}

function modelIds(text: string): string[] {
  try {
    const parsed = JSON.parse(text) as { data?: { id?: unknown }[] };
    return Array.isArray(parsed.data) ? parsed.data.map((model) => String(model?.id)) : [];
  } catch {
    return [];
  }
}

/** A short answer's text. */
export async function readCapped(body: Readable, timeoutMs: number, limitBytes = ANSWER_LIMIT_BYTES): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  const timer = setTimeout(
    () => body.destroy(new AppError('timeout', 'the gateway stopped in the midst of its answer')),
    timeoutMs,
  );
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > limitBytes) throw new AppError('upstream_error', `the gateway's answer is longer than ${limitBytes} bytes`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString('utf8');
  } finally {
    clearTimeout(timer);
    body.destroy();
  }
}
