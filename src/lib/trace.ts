import { AsyncLocalStorage } from 'node:async_hooks';
import { randomFillSync } from 'node:crypto';

/** The place of a piece of work in a trace, as W3C has it (https://www.w3.org/TR/trace-context/). */
export interface Trace {
  traceId: string;
  /** Of the work itself: what it asks of others names it as their parent. */
  spanId: string;
  /** Who asked for it. */
  parentId: string | undefined;
  sampled: boolean;
}

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const LONGEST = 256;
const current = new AsyncLocalStorage<Trace>();

/** Goes on with the trace that a `traceparent` header names; without one, or with one that is not well-formed, a new trace begins. */
export function traceFrom(traceparent: string | undefined): Trace {
  const [, version, traceId = '', parentId = '', flags = '00', more] =
    (traceparent !== undefined && traceparent.length <= LONGEST && TRACEPARENT.exec(traceparent)) || [];
  const isNone = version === undefined || version === 'ff' || (version === '00' && more !== undefined);
  if (isNone || /^0+$/.test(traceId) || /^0+$/.test(parentId))
    return { traceId: randomHex(16), spanId: randomHex(8), parentId: undefined, sampled: false };
  return { traceId, spanId: randomHex(8), parentId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** The header by which whoever is asked goes on with this trace. */
export function traceparentOf({ traceId, spanId, sampled }: Trace): string {
  return `00-${traceId}-${spanId}-0${sampled ? 1 : 0}`;
}

/** Runs work, and all that it begins, as part of a trace. */
export function inTrace<T>(trace: Trace, work: () => T): T {
  return current.run(trace, work);
}

/** The trace of the work that runs now. */
export function currentTrace(): Trace | undefined {
  return current.getStore();
}

/** What to send along with a request that this work makes. */
export function traceHeaders(): Record<string, string> {
  const trace = current.getStore();
  return trace ? { traceparent: traceparentOf(trace) } : {};
}

/** Random bytes are fetched many at a time, as for ids. */
const pool = Buffer.alloc(4096);
let poolAt = pool.length;

function randomHex(bytes: number): string {
  if (poolAt + bytes > pool.length) {
    randomFillSync(pool);
    poolAt = 0;
  }
  poolAt += bytes;
  return pool.toString('hex', poolAt - bytes, poolAt);
}
