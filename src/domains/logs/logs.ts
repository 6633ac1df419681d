import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError } from '../../lib/errors.js';
import { isId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import type { Secrets } from '../secrets/secrets.js';
import { type LogCursor, encodeLogCursor } from './cursor.js';
import { follow, type LogPage, type LogReader } from './follow.js';
import { LiveTail } from './live-tail.js';
import type { LogGap, LogLine, LogsAnswer } from './logs.schema.js';
import * as store from './logs.store.js';
import type { ShownRecord } from './record.js';
import type { Redact } from './redact.js';
import { Matcher, type Place, type Position, scanBack, type ScanLimits, scanOn, type Segment } from './scan.js';
import { endOfRecords, openSegment, segmentPath, userFolder } from './segment-file.js';
import { Turns } from './turns.js';

export interface LogsWish {
  tail: number;
  sinceMs: number | undefined;
  untilMs: number | undefined;
  agent: string | undefined;
  stream: 'stdout' | 'stderr' | undefined;
  levels: string[] | undefined;
  q: string | undefined;
  cursor: LogCursor | undefined;
}

/** What one answer may look at. Where that is not all, its cursor goes on. */
const SCAN: Omit<ScanLimits, 'records'> = { bytes: 32 * 1024 * 1024, ms: 1_000 };
/** For whoever wants no more than the last few. */
const LAST: Omit<ScanLimits, 'records'> = { bytes: 1024 * 1024, ms: 1_000 };
const SCANS_AT_ONCE = 4;
const EXPIRED_AT_ONCE = 1_000;

export interface LogsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  /** Shared by all Berth processes of a host. */
  dir: string;
  log: Log;
  /** Knows what of a user's must not be shown. */
  secrets: Pick<Secrets, 'redactorFor'>;
}

/** What instances printed: kept by the tier's days and bytes, for all that can be asked of it. `LogCollection` brings it in. */
export class Logs {
  readonly #options: LogsOptions;
  readonly #db: Kysely<Schema>;
  readonly #tails = new Map<string, { tail: Promise<LiveTail>; followers: number }>();
  readonly #turns = new Turns(SCANS_AT_ONCE);
  /** Whose segments may have to go; `all` where nobody knows. */
  #toPrune: Set<string> | 'all' = 'all';

  constructor(options: LogsOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** The last lines, or the page at a cursor, in the order of their times. */
  async read(userId: string, wish: LogsWish, signal: AbortSignal): Promise<LogsAnswer> {
    const agent = await this.#agent(userId, wish.agent);
    const { matcher, waiting } = await this.#matcher(userId, wish, agent?.name);
    const segments = await store.readSegments(this.#db, userId);
    const page = await this.#turns.take(userId, () => this.#page(userId, segments, wish, matcher, signal));
    const hide = await this.#options.secrets.redactorFor(userId);
    const shown = page.found.map(({ record }) => record);
    const lines = shown.flatMap((record) => (record.kind === 'line' ? [lineAnswer(record, hide)] : []));
    return {
      data: lines.toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0)),
      gaps: [...page.lost, ...shown.flatMap((record) => (record.kind === 'gap' ? [gapAnswer(record)] : []))],
      waiting,
      newest_cursor: encodeLogCursor({ to: 'newer', place: page.end }),
      pagination: { next_cursor: page.rest ? encodeLogCursor(page.rest) : null, has_more: page.rest !== undefined, total: null },
    };
  }

  /** The last lines of a deployment that are the agent's or nobody's, also of instances that are gone. */
  async lastOf(
    userId: string,
    of: { deploymentId: string; agent: string },
    lines: number,
    signal: AbortSignal,
  ): Promise<LogLine[]> {
    const hide = await this.#options.secrets.redactorFor(userId);
    const matcher = new Matcher({ ...of, orNobodys: true });
    const segments = await store.readSegments(this.#db, userId);
    const { found } = await scanBack(this.#place(userId), segments, undefined, matcher, { ...LAST, records: lines }, signal);
    return found.flatMap(({ record }) => (record.kind === 'line' ? [lineAnswer(record, hide)] : []));
  }

  /**
   * The last lines, or those after a cursor, and then every line as it is written, across restarts of the instances and with those that come later,
   * until `signal` aborts or the agent is gone.
   */
  async follow(userId: string, wish: LogsWish, signal: AbortSignal, reader: LogReader): Promise<void> {
    const agent = await this.#agent(userId, wish.agent);
    const { matcher } = await this.#matcher(userId, wish, agent?.name);
    const segments = await store.readSegments(this.#db, userId);
    const page = await this.#turns.take(userId, () => this.#firstOf(userId, segments, wish, matcher, signal));
    const hide = await this.#options.secrets.redactorFor(userId);
    const { tail, done } = await this.#tailOf(userId);
    try {
      await follow({
        tail,
        matcher,
        reader,
        first: page,
        line: (record) => lineAnswer(record, hide),
        gap: gapAnswer,
        bus: this.#options.bus,
        agent: agent && {
          deploymentId: agent.deployment_id,
          isThere: async () => (await store.readAgent(this.#db, userId, agent.name)) !== undefined,
        },
        readOn: async (from) => {
          const now = await store.readSegments(this.#db, userId);
          return scanOn(this.#place(userId), now, from, matcher, { ...SCAN, records: 500 }, signal);
        },
        signal,
      });
    } finally {
      await done();
    }
  }

  /** A user's stream has grown here. */
  grown(userId: string): void {
    void this.#tails.get(userId)?.tail.then((tail) => tail.look());
  }

  /** Looks at that user's segments at the next pruning; at all, if none is named. */
  prunable(userId?: string): void {
    if (userId === undefined) this.#toPrune = 'all';
    else if (this.#toPrune !== 'all') this.#toPrune.add(userId);
  }

  /** Removes what the tiers keep no longer: of those that are said to have any, and now and then of all. */
  async prune(): Promise<void> {
    const of = this.#toPrune;
    this.#toPrune = new Set();
    const whose = of === 'all' || of.size === 0 ? undefined : [...of];
    for (let rows; (rows = await store.readExpiredAcrossTenants(this.#db, whose, EXPIRED_AT_ONCE)).length > 0;) {
      for (const { user_id: userId, number } of rows) {
        // The file first: a row without one is removed again, a file without one is found by nobody.
        await rm(segmentPath(this.#options.dir, userId, number), { force: true });
        await store.deleteSegment(this.#db, userId, number);
      }
    }
    if (whose === undefined) await this.#pruneFolders();
  }

  /** Part of the user's deletion: the files with the rows, before the transaction ends. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.eraseLogs(trx, userId);
    await rm(userFolder(this.#options.dir, userId), { recursive: true, force: true });
  }

  /** Folders of users that are no more, as a kill in the middle of a deletion may leave one. */
  async #pruneFolders(): Promise<void> {
    const names = await readdir(this.#options.dir).catch(() => []);
    const ids = names.filter((name) => isId('usr', name));
    const there = await store.findUsersAcrossTenants(this.#db, ids);
    for (const id of ids) if (!there.has(id)) await rm(join(this.#options.dir, id), { recursive: true, force: true });
  }

  async #page(userId: string, segments: Segment[], wish: LogsWish, matcher: Matcher, signal: AbortSignal): Promise<LogPage> {
    const place = this.#place(userId);
    const limits = { ...SCAN, records: wish.tail };
    if (wish.cursor?.to === 'newer') {
      const { found, end, isDone } = await scanOn(place, segments, wish.cursor.place, matcher, limits, signal);
      return {
        found,
        end,
        rest: isDone ? undefined : { to: 'newer', place: end },
        lost: lostBefore(segments, wish.cursor.place),
      };
    }
    const end = wish.cursor?.place ?? (await endOf(place, segments));
    if (wish.tail === 0) return { found: [], end, rest: undefined, lost: [] };
    const { found, rest, missing } = await scanBack(place, segments, end, matcher, limits, signal);
    return { found, end, rest: rest && { to: 'older', place: rest }, lost: missing.length > 0 ? [lost(NO_FILE)] : [] };
  }

  /** What a follower is told first: nothing that it was told before. */
  #firstOf(userId: string, segments: Segment[], wish: LogsWish, matcher: Matcher, signal: AbortSignal): Promise<LogPage> {
    if (wish.cursor === undefined) return this.#page(userId, segments, wish, matcher, signal);
    const { to, place } = wish.cursor;
    if (to === 'newer') return Promise.resolve({ found: [], end: place, rest: undefined, lost: lostBefore(segments, place) });
    throw new AppError('invalid_request', 'invalid cursor', {
      fields: [{ path: 'cursor', message: 'must be a newest_cursor or the id of an event: what is followed becomes newer' }],
    });
  }

  /** The end of the stream, read once however many follow it. */
  async #tailOf(userId: string): Promise<{ tail: LiveTail; done: () => Promise<void> }> {
    const known = this.#tails.get(userId) ?? { tail: this.#openTail(userId), followers: 0 };
    this.#tails.set(userId, known);
    known.followers += 1;
    const done = async () => {
      known.followers -= 1;
      if (known.followers > 0 || this.#tails.get(userId) !== known) return;
      this.#tails.delete(userId);
      await known.tail.then((tail) => tail.close());
    };
    try {
      return { tail: await known.tail, done };
    } catch (error) {
      this.#tails.delete(userId);
      throw error;
    }
  }

  async #openTail(userId: string): Promise<LiveTail> {
    const place = this.#place(userId);
    const end = await endOf(place, await store.readSegments(this.#db, userId));
    const standing = async () => {
      const stream = await store.readStream(this.#db, userId);
      return stream && stream.deleting_at === null ? { waiting: stream.waiting } : undefined;
    };
    return new LiveTail({ place, log: this.#options.log, standing }, end);
  }

  async #matcher(userId: string, wish: LogsWish, agent: string | undefined) {
    const stream = await store.readStream(this.#db, userId);
    if (!stream) throw new AppError('not_found', 'user not found');
    const keptFromMs = stream.kept_from_ms;
    const { untilMs, stream: of, levels, q } = wish;
    const sinceMs = Math.max(wish.sinceMs ?? keptFromMs, keptFromMs);
    return { matcher: new Matcher({ sinceMs, untilMs, agent, stream: of, levels, q }), waiting: stream.waiting };
  }

  async #agent(userId: string, agent: string | undefined) {
    if (agent === undefined) return undefined;
    const found = await store.readAgent(this.#db, userId, agent);
    if (!found) throw new AppError('not_found', 'agent not found');
    return found;
  }

  #place(userId: string): Place {
    return { dir: this.#options.dir, userId };
  }
}

async function endOf({ dir, userId }: Place, segments: readonly Segment[]): Promise<Position> {
  const last = segments.at(-1);
  if (!last) return { segment: 0, offset: 0 };
  if (last.bytes !== null) return { segment: last.number, offset: last.bytes };
  const file = await openSegment(segmentPath(dir, userId, last.number));
  if (!file) return { segment: last.number, offset: 0 };
  try {
    return { segment: last.number, offset: await endOfRecords(file) };
  } finally {
    await file.close();
  }
}

/** What a reader that comes back has missed because it is kept no longer. */
function lostBefore(segments: readonly Segment[], { segment }: Position): LogGap[] {
  const first = segments[0]?.number;
  if (segment === 0 || first === undefined || first <= segment) return [];
  return [lost('kept no longer')];
}

const NO_FILE = 'the file cannot be found: all Berth processes must have the same LOG_DIR';

function lost(reason: string): LogGap {
  return { from: null, to: null, deployment_id: null, lines: null, bytes: null, reason };
}

function lineAnswer({ time, stream, level, agent, deployment_id, message }: LogLine, hide: Redact): LogLine {
  return { time, stream, level, agent, deployment_id, message: hide(message) };
}

function gapAnswer({ time, until, deployment_id, lines, bytes, reason }: Extract<ShownRecord, { kind: 'gap' }>): LogGap {
  return { from: time, to: until, deployment_id, lines, bytes, reason };
}
