import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { News } from '../../events/news.js';
import { AppError } from '../../lib/errors.js';
import type { LogLine as RuntimeLine, Runtime } from '../../runtime/runtime.js';
import { type LogLine, MAX_TAIL } from './logs.schema.js';
import * as store from './logs.store.js';
import { redact } from './redact.js';

export interface LogsWish {
  tail: number;
  sinceMs: number | undefined;
  agent: string | undefined;
  stream: 'stdout' | 'stderr' | undefined;
}

interface Source {
  deploymentId: string;
  instance: string | undefined;
}

const READ_TIMEOUT_MS = 10_000;
/** How often a follower looks for the next instance without having been told of one. */
const FOLLOW_POLL_MS = 1_000;
const LINE_LIMIT_CHARS = 16_384;

/** What instances print, parsed and redacted, for as long as the engine keeps it. */
export class Logs {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #runtime: Runtime;

  constructor({ db, bus, runtime }: { db: Kysely<Schema>; bus: Bus; runtime: Runtime }) {
    this.#db = db;
    this.#bus = bus;
    this.#runtime = runtime;
  }

  /** The last lines of all of the user's instances, in the order of their times. */
  async read(userId: string, wish: LogsWish, signal: AbortSignal): Promise<LogLine[]> {
    const agent = await this.#agent(userId, wish.agent);
    const sources = await this.#sources(userId, wish.agent);
    const cut = AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT_MS)]);
    const lists = await Promise.all(sources.map((source) => this.#readOne(source, wish, agent, cut)));
    if (cut.aborted && !signal.aborted) throw new AppError('timeout', 'the engine took too long to give the logs');
    const lines = lists.flat().toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
    return wish.tail === 0 ? [] : lines.slice(-wish.tail);
  }

  /**
   * The same, and then every line as it is written, across restarts of the instances, until `signal` aborts. `send` is awaited before the
   * next line is read, so that a reader that stops reading stops the engine's stream and nothing piles up here.
   */
  async follow(userId: string, wish: LogsWish, signal: AbortSignal, send: (line: LogLine) => Promise<void> | undefined): Promise<void> {
    const agent = await this.#agent(userId, wish.agent);
    const sources = await this.#sources(userId, wish.agent);
    let turn: Promise<void> | undefined;
    const oneAtATime = async (line: LogLine): Promise<void> => {
      while (turn) await turn;
      turn = send(line);
      if (turn) await turn.finally(() => (turn = undefined));
    };
    await Promise.all(sources.map((source) => this.#followOne(userId, source, wish, agent, signal, oneAtATime)));
  }

  async #readOne(source: Source, wish: LogsWish, agent: string | undefined, signal: AbortSignal): Promise<LogLine[]> {
    if (source.instance === undefined) return [];
    const tail = agent === undefined ? wish.tail : MAX_TAIL;
    const lines: LogLine[] = [];
    for await (const raw of this.#runtime.logs(source.instance, { follow: false, tail, ...optional(wish) }, signal)) {
      const line = parse(raw, source.deploymentId);
      if (agent === undefined || line.agent === agent) lines.push(line);
    }
    return lines;
  }

  async #followOne(
    userId: string,
    first: Source,
    wish: LogsWish,
    agent: string | undefined,
    signal: AbortSignal,
    send: (line: LogLine) => Promise<void>,
  ): Promise<void> {
    const news = new News(this.#bus, (id) => id === first.deploymentId, signal);
    let followed: string | undefined;
    let last = '';
    try {
      for (let source: Source | undefined = first; source && !signal.aborted; source = await this.#again(userId, first, wish)) {
        const { instance } = source;
        if (instance !== undefined) {
          // A new instance is read from its beginning; the same one, opened again, from where it was left.
          const isNew = followed !== undefined && instance !== followed;
          const tail = isNew ? MAX_TAIL : wish.tail;
          followed = instance;
          for await (const raw of this.#runtime.logs(instance, { follow: true, tail, ...optional(wish) }, signal)) {
            if (raw.time <= last) continue;
            last = raw.time;
            const line = parse(raw, first.deploymentId);
            if (agent === undefined || line.agent === agent) await send(line);
          }
        }
        await news.wait(FOLLOW_POLL_MS);
      }
    } finally {
      news.end();
    }
  }

  async #again(userId: string, source: Source, wish: LogsWish): Promise<Source | undefined> {
    return (await this.#sources(userId, wish.agent)).find((one) => one.deploymentId === source.deploymentId);
  }

  async #agent(userId: string, agent: string | undefined): Promise<string | undefined> {
    if (agent === undefined) return undefined;
    const name = await store.agentName(this.#db, userId, agent);
    if (name === undefined) throw new AppError('not_found', 'agent not found');
    return name;
  }

  async #sources(userId: string, agent: string | undefined): Promise<Source[]> {
    const rows = await store.readSources(this.#db, userId, agent);
    return rows.map((row) => ({ deploymentId: row.deployment_id, instance: row.instance ?? undefined }));
  }
}

function optional(wish: LogsWish): { since?: number; stream?: 'stdout' | 'stderr' } {
  return { ...(wish.sinceMs === undefined ? {} : { since: wish.sinceMs }), ...(wish.stream === undefined ? {} : { stream: wish.stream }) };
}

/** The gateway's JSON lines are taken apart; whatever else is printed is a message as it is. */
function parse(raw: RuntimeLine, deploymentId: string): LogLine {
  const fields = parseJson(raw.text);
  const text = typeof fields?.msg === 'string' ? messageWithFields(fields) : raw.text;
  return {
    time: raw.time,
    stream: raw.stream,
    level: typeof fields?.level === 'string' ? fields.level : null,
    agent: typeof fields?.agent === 'string' ? fields.agent : null,
    deployment_id: deploymentId,
    message: redact(text.slice(0, LINE_LIMIT_CHARS)),
  };
}

function parseJson(text: string): Record<string, unknown> | undefined {
  if (!text.startsWith('{')) return undefined;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function messageWithFields({ msg, time: _time, level: _level, agent: _agent, ...rest }: Record<string, unknown>): string {
  return Object.keys(rest).length === 0 ? String(msg) : `${String(msg)} ${JSON.stringify(rest)}`;
}
