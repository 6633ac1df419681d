import type { Bus } from '../../events/bus.js';
import { encodeLogCursor, type LogCursor } from './cursor.js';
import { isBefore, type LiveTail } from './live-tail.js';
import type { LogGap, LogLine } from './logs.schema.js';
import type { StoredGap, StoredLine } from './record.js';
import { type Found, type Matcher, type Position, type scanOn } from './scan.js';

/** Whom a follower tells. What it returns is awaited before the next is told, so that nothing piles up here. `id`: where to go on after it. */
export interface LogReader {
  line(line: LogLine, id: string): Promise<void> | undefined;
  gap(gap: LogGap, id: string): Promise<void> | undefined;
  /** The lines cannot be had at the moment. Said once, until they come again. */
  waiting(reason: string): Promise<void> | undefined;
}

/** Some records, the place after them, and where to go on. */
export interface LogPage {
  found: Found[];
  end: Position;
  rest: LogCursor | undefined;
  /** What was there and is kept no longer. */
  lost: LogGap[];
}

export interface FollowOptions {
  tail: LiveTail;
  matcher: Matcher;
  reader: LogReader;
  /** What is told before what comes. */
  first: LogPage;
  line(record: StoredLine): LogLine;
  gap(record: StoredGap): LogGap;
  bus: Bus;
  /** The one agent that is wanted, if it is one: the following ends with it. */
  agent: { deploymentId: string; isThere(): Promise<boolean> } | undefined;
  /** From the files, where the tail does not reach so far back. */
  readOn(from: Position): ReturnType<typeof scanOn>;
  signal: AbortSignal;
}

/** In case a word of an agent's end was lost. */
const AGENT_EVERY_MS = 5_000;

/** Tells a reader what there is, and what comes, until its signal aborts or there will never be any more. */
export async function follow(options: FollowOptions): Promise<void> {
  const { tail, first, reader, agent, signal, bus } = options;
  for (const gap of first.lost) await reader.gap(gap, encodeLogCursor({ to: 'newer', place: first.end }));
  for (const found of first.found) await tell(options, found);
  let place = first.end;
  let said: string | null = null;
  let askedMs = performance.now();
  const unsubscribe = bus.subscribe('deployment', (id) => {
    if (id !== agent?.deploymentId) return;
    askedMs = -Infinity;
    tail.wakeAll();
  });
  try {
    while (!signal.aborted && !tail.isOver) {
      const changed = tail.change(signal);
      const next = await tellFrom(options, place);
      if (isBefore(place, next)) {
        place = next;
        continue;
      }
      if (tail.waiting !== said && tail.waiting !== null) await reader.waiting(tail.waiting);
      said = tail.waiting;
      if (agent && performance.now() - askedMs > AGENT_EVERY_MS) {
        if (!(await agent.isThere())) return;
        askedMs = performance.now();
      }
      await changed;
    }
  } finally {
    unsubscribe();
  }
}

/** Tells what is after a place; answers the place after that. */
async function tellFrom(options: FollowOptions, place: Position): Promise<Position> {
  const { tail, matcher, readOn } = options;
  const kept = tail.after(place);
  if (!kept) {
    const { found, end } = await readOn(place);
    for (const one of found) await tell(options, one);
    // What is in no file any more is passed over.
    return isBefore(place, end) ? end : tail.end;
  }
  for (const found of kept) {
    if (options.signal.aborted) break;
    const sent = matcher.wants(found.record) ? tell(options, found) : undefined;
    if (sent) await sent;
  }
  return kept.at(-1)?.next ?? place;
}

function tell({ reader, line, gap }: FollowOptions, { record, next }: Found): Promise<void> | undefined {
  const id = encodeLogCursor({ to: 'newer', place: next });
  return record.kind === 'line' ? reader.line(line(record), id) : reader.gap(gap(record), id);
}
