import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { withDeadline } from '../../lib/deadline.js';
import { AppError } from '../../lib/errors.js';
import type { Runtime } from '../../runtime/runtime.js';
import type { Secrets } from '../secrets/secrets.js';
import { Follower, type LogReader, type Source } from './follower.js';
import { LastLines, lineOf, Mark } from './line.js';
import { type LogLine, MAX_TAIL } from './logs.schema.js';
import * as store from './logs.store.js';
import type { Redact } from './redact.js';

export interface LogsWish {
  tail: number;
  sinceMs: number | undefined;
  agent: string | undefined;
  stream: 'stdout' | 'stderr' | undefined;
}

interface Read {
  lines: LogLine[];
  /** How far each instance was read. */
  marks: Map<string, Mark>;
}

/** Whose lines, and without what. */
interface Shown {
  agent: string | undefined;
  hide: Redact;
}

const READ_TIMEOUT_MS = 10_000;
/** For whoever wants no more than the last few, and has others to ask too. */
const LAST_TIMEOUT_MS = 2_000;
const LAST_LOOKED_AT = 200;

export interface LogsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  runtime: Runtime;
  /** Knows what of a user's must not be shown. */
  secrets: Pick<Secrets, 'redactorFor'>;
}

/** What instances print, parsed and redacted, for as long as the engine keeps it. */
export class Logs {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #runtime: Runtime;
  readonly #secrets: LogsOptions['secrets'];

  constructor({ db, bus, runtime, secrets }: LogsOptions) {
    this.#db = db;
    this.#bus = bus;
    this.#runtime = runtime;
    this.#secrets = secrets;
  }

  /** The last lines of all of the user's instances, in the order of their times. */
  async read(userId: string, wish: LogsWish, signal: AbortSignal): Promise<LogLine[]> {
    const agent = await this.#agent(userId, wish.agent);
    const hide = await this.#secrets.redactorFor(userId);
    return (await this.#read(await this.#sources(userId, wish.agent), wish, { agent, hide }, signal)).lines;
  }

  /** The last lines of one instance that are the agent's or nobody's; none where the engine does not give them in time. */
  async lastOf(
    userId: string,
    of: { deploymentId: string; agent: string; instance: string | null },
    lines: number,
    signal: AbortSignal,
  ): Promise<LogLine[]> {
    if (of.instance === null) return [];
    const hide = await this.#secrets.redactorFor(userId);
    const last = new LastLines(lines);
    const options = { follow: false, tail: LAST_LOOKED_AT };
    try {
      await withDeadline(
        'reading the logs',
        LAST_TIMEOUT_MS,
        async (cut) => {
          for await (const raw of this.#runtime.logs(of.instance ?? '', options, cut)) {
            const line = lineOf(raw, of.deploymentId, hide);
            if (line.agent === null || line.agent === of.agent) last.add(line);
          }
        },
        signal,
      );
    } catch {
      signal.throwIfAborted();
    }
    return last.lines;
  }

  /**
   * The same, and then every line as it is written, across restarts of the instances and with those that come later, until `signal`
   * aborts or the agent is gone.
   */
  async follow(userId: string, wish: LogsWish, signal: AbortSignal, reader: LogReader): Promise<void> {
    const agent = await this.#agent(userId, wish.agent);
    let hide = await this.#secrets.redactorFor(userId);
    const { lines, marks } = await this.#read(await this.#sources(userId, wish.agent), wish, { agent, hide }, signal);
    for (const line of lines) {
      const sent = reader.line(line);
      if (sent) await sent;
    }
    const options = {
      bus: this.#bus,
      sources: async () => {
        // Looked at with the instances: at every change of a deployment, as a new secret makes it one, and every second.
        hide = await this.#secrets.redactorFor(userId);
        return (await this.#exists(userId, wish.agent)) ? this.#sources(userId, wish.agent) : undefined;
      },
      hide: (text: string) => hide(text),
      open: (instance: string, sinceMs: number | undefined, cut: AbortSignal) =>
        this.#runtime.logs(
          instance,
          { follow: true, tail: MAX_TAIL, ...optional({ ...wish, sinceMs: sinceMs ?? wish.sinceMs }) },
          cut,
        ),
      wanted: (line: LogLine) => agent === undefined || line.agent === agent,
      reader,
    };
    await new Follower(options, marks).run(signal);
  }

  async #read(sources: Source[], wish: LogsWish, shown: Shown, signal: AbortSignal): Promise<Read> {
    const marks = new Map<string, Mark>();
    const lists = await withDeadline(
      'reading the logs',
      READ_TIMEOUT_MS,
      (cut) =>
        Promise.all(
          sources.map((source) => {
            const mark = new Mark();
            marks.set(source.instance, mark);
            return this.#readOne(source, wish, shown, mark, cut);
          }),
        ),
      signal,
    );
    const lines = lists.flat().toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
    return { lines: wish.tail === 0 ? [] : lines.slice(-wish.tail), marks };
  }

  async #readOne(source: Source, wish: LogsWish, { agent, hide }: Shown, mark: Mark, signal: AbortSignal): Promise<LogLine[]> {
    const last = new LastLines(wish.tail);
    // One line at least is looked at, so that a follower knows where to go on. An engine counts its tail before it looks at streams.
    const tail = agent === undefined && wish.stream === undefined ? Math.max(1, wish.tail) : MAX_TAIL;
    try {
      for await (const raw of this.#runtime.logs(source.instance, { follow: false, tail, ...optional(wish) }, signal)) {
        mark.note(raw);
        const line = lineOf(raw, source.deploymentId, hide);
        if (agent === undefined || line.agent === agent) last.add(line);
      }
    } catch (error) {
      // Removed from outside: what it printed is gone with it.
      if (!(error instanceof AppError) || error.code !== 'not_found') throw error;
    }
    return last.lines;
  }

  async #agent(userId: string, agent: string | undefined): Promise<string | undefined> {
    if (agent === undefined) return undefined;
    const name = await store.agentName(this.#db, userId, agent);
    if (name === undefined) throw new AppError('not_found', 'agent not found');
    return name;
  }

  async #exists(userId: string, agent: string | undefined): Promise<boolean> {
    return agent === undefined || (await store.agentName(this.#db, userId, agent)) !== undefined;
  }

  async #sources(userId: string, agent: string | undefined): Promise<Source[]> {
    const rows = await store.readSources(this.#db, userId, agent);
    return rows.map((row) => ({ deploymentId: row.deployment_id, instance: row.instance }));
  }
}

function optional(wish: LogsWish): { since?: number; stream?: 'stdout' | 'stderr' } {
  return {
    ...(wish.sinceMs === undefined ? {} : { since: wish.sinceMs }),
    ...(wish.stream === undefined ? {} : { stream: wish.stream }),
  };
}
