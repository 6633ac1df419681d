import { setImmediate as others } from 'node:timers/promises';
import { type Block, blocksBack, blocksOn, openSegment, recordsOf, segmentPath } from './segment-file.js';
import { decodeRecord, GAP_START, type ShownRecord } from './record.js';

/** A place between two records of a user's stream. */
export interface Position {
  segment: number;
  offset: number;
}

/** A segment as its row tells. */
export interface Segment {
  number: number;
  /** Of one that is written still: null, and all there is by now counts. */
  bytes: number | null;
  /** Nothing in it is known of. */
  isEmpty: boolean;
  /** Milliseconds since the epoch, where they are known. */
  fromMs: number | null;
  toMs: number | null;
}

/** Which records a reader wants. All given must hold; gaps are told whatever is looked for, where time and deployment fit. */
export interface Wanted {
  sinceMs?: number | undefined;
  untilMs?: number | undefined;
  agent?: string | undefined;
  /** Also lines that concern no agent. */
  orNobodys?: boolean;
  deploymentId?: string | undefined;
  stream?: 'stdout' | 'stderr' | undefined;
  levels?: readonly string[] | undefined;
  /** Part of the message, in any case. */
  q?: string | undefined;
}

export interface Found {
  record: ShownRecord;
  /** Where it begins, and where the next one does. */
  at: Position;
  next: Position;
}

/** How much one look may take. */
export interface ScanLimits {
  records: number;
  bytes: number;
  ms: number;
}

export interface ScanResult {
  /** In the order in which they were written. */
  found: Found[];
  /** Where to go on, further back. Undefined where everything was looked at. */
  rest: Position | undefined;
  /** Segments that should be there and are not. */
  missing: number[];
}

/** What a look may take before it lets others work. */
const TEXT_LIMIT_CHARS = 4_000_000;

/** A stream's records that a wish describes. */
export class Matcher {
  readonly #wanted: Wanted;
  readonly #needle: string | undefined;
  readonly #levels: ReadonlySet<string> | undefined;

  constructor(wanted: Wanted) {
    this.#wanted = wanted;
    this.#needle = wanted.q?.toLowerCase();
    this.#levels = wanted.levels && new Set(wanted.levels.map((level) => level.toLowerCase()));
  }

  /** Whether a segment with these times may hold any. */
  mayBeIn({ fromMs, toMs }: Segment): boolean {
    const { sinceMs, untilMs } = this.#wanted;
    if (sinceMs !== undefined && toMs !== null && toMs < sinceMs) return false;
    return untilMs === undefined || fromMs === null || fromMs <= untilMs;
  }

  /** Whether a block may hold any: what is not in its text is in none of its records. */
  mayHold({ bytes }: Block): boolean {
    const { deploymentId, agent, orNobodys } = this.#wanted;
    if (bytes.includes(GAP_START)) return true;
    if (deploymentId !== undefined && !bytes.includes(deploymentId)) return false;
    if (agent !== undefined && !orNobodys && !bytes.includes(JSON.stringify(agent))) return false;
    if (this.#needle === undefined) return true;
    const written = JSON.stringify(this.#needle).slice(1, -1);
    return bytes.toString('utf8').toLowerCase().includes(written);
  }

  wants(record: ShownRecord): boolean {
    const { sinceMs, untilMs, deploymentId } = this.#wanted;
    if (deploymentId !== undefined && record.deployment_id !== deploymentId) return false;
    const last = record.kind === 'gap' ? record.until : record.time;
    if (sinceMs !== undefined && Date.parse(last) < sinceMs) return false;
    if (untilMs !== undefined && Date.parse(record.time) > untilMs) return false;
    if (record.kind === 'gap') return true;
    const { agent, orNobodys, stream } = this.#wanted;
    if (agent !== undefined && record.agent !== agent && !(orNobodys && record.agent === null)) return false;
    if (stream !== undefined && record.stream !== stream) return false;
    if (this.#levels && !this.#levels.has(record.level?.toLowerCase() ?? '')) return false;
    return this.#needle === undefined || record.message.toLowerCase().includes(this.#needle);
  }
}

/** Whose files. */
export interface Place {
  dir: string;
  userId: string;
}

/** The last records before a place that match, as far back as the limits allow. `segments` in their order. */
export async function scanBack(
  place: Place,
  segments: readonly Segment[],
  before: Position | undefined,
  matcher: Matcher,
  limits: ScanLimits,
  signal: AbortSignal,
): Promise<ScanResult> {
  const effort = new Effort(limits);
  const found: Found[] = [];
  const missing: number[] = [];
  const result = (rest: Position | undefined): ScanResult => ({ found: found.reverse(), rest, missing });
  for (const segment of segments.toReversed()) {
    if (before && segment.number > before.segment) continue;
    if (!matcher.mayBeIn(segment)) continue;
    const ceiling = before?.segment === segment.number ? before.offset : undefined;
    for await (const block of blocksOfSegment(place, segment, ceiling, missing)) {
      signal.throwIfAborted();
      for (const one of matcher.mayHold(block) ? matches(block, segment.number, matcher).reverse() : []) {
        found.push(one);
        if (effort.isFull(one)) return result(one.at);
      }
      await others();
      if (effort.isSpent(block.bytes.length)) return result({ segment: segment.number, offset: block.start });
    }
  }
  return result(undefined);
}

/** The next records after a place that match. `rest` is where to go on later in any case. */
export async function scanOn(
  place: Place,
  segments: readonly Segment[],
  after: Position,
  matcher: Matcher,
  limits: ScanLimits,
  signal: AbortSignal,
): Promise<{ found: Found[]; end: Position; isDone: boolean }> {
  const effort = new Effort(limits);
  const found: Found[] = [];
  let end = after;
  for (const segment of segments) {
    if (segment.number < after.segment) continue;
    const from = segment.number === after.segment ? after.offset : 0;
    end = { segment: segment.number, offset: from };
    for await (const block of blocksFrom(place, segment, from)) {
      signal.throwIfAborted();
      for (const one of matcher.mayHold(block) ? matches(block, segment.number, matcher) : []) {
        found.push(one);
        if (effort.isFull(one)) return { found, end: one.next, isDone: false };
      }
      end = { segment: segment.number, offset: block.start + block.bytes.length };
      await others();
      if (effort.isSpent(block.bytes.length)) return { found, end, isDone: false };
    }
  }
  return { found, end, isDone: true };
}

/** The records of a block that match, in their order. */
export function matches(block: Block, segment: number, matcher: Matcher): Found[] {
  const found: Found[] = [];
  for (const { text, at, next } of recordsOf(block)) {
    const record = decodeRecord(text);
    if (!record || record.kind === 'marks' || !matcher.wants(record)) continue;
    found.push({ record, at: { segment, offset: at }, next: { segment, offset: next } });
  }
  return found;
}

async function* blocksOfSegment({ dir, userId }: Place, segment: Segment, ceiling: number | undefined, missing: number[]) {
  const file = await openSegment(segmentPath(dir, userId, segment.number));
  if (!file && !segment.isEmpty) missing.push(segment.number);
  if (!file) return;
  try {
    const end = Math.min(segment.bytes ?? Infinity, ceiling ?? Infinity, (await file.stat()).size);
    yield* blocksBack(file, end);
  } finally {
    await file.close();
  }
}

async function* blocksFrom({ dir, userId }: Place, segment: Segment, from: number) {
  const file = await openSegment(segmentPath(dir, userId, segment.number));
  if (!file) return;
  try {
    yield* blocksOn(file, from, Math.min(segment.bytes ?? Infinity, (await file.stat()).size));
  } finally {
    await file.close();
  }
}

/** Counts what a look takes, and says when it is enough. */
class Effort {
  readonly #limits: ScanLimits;
  readonly #begunMs = performance.now();
  #records = 0;
  #chars = 0;
  #bytes = 0;

  constructor(limits: ScanLimits) {
    this.#limits = limits;
  }

  isFull({ record }: Found): boolean {
    this.#records += 1;
    if (record.kind === 'line') this.#chars += record.message.length;
    return this.#records >= this.#limits.records || this.#chars >= TEXT_LIMIT_CHARS;
  }

  isSpent(bytes: number): boolean {
    this.#bytes += bytes;
    return this.#bytes >= this.#limits.bytes || performance.now() - this.#begunMs >= this.#limits.ms;
  }
}
