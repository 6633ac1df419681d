import type { DatabaseKind } from './berth.js';
import type { Report } from './measure.js';
import type { Scope } from './scope.js';

/** What every benchmark is given. */
export interface BenchContext {
  /** Closed after the benchmark; it may be closed and filled again in between. */
  scope: Scope;
  /** So many, by BENCH_SCALE: 0.1 to see that it works, 1 for figures. At least 1. */
  scaled(count: number): number;
  /** The databases to measure on (BENCH_DATABASE: `pglite`, `postgres` or both); `url` of a server for the latter. */
  databases(): Promise<{ kind: DatabaseKind; url: string | undefined }[]>;
}

export type Bench = (context: BenchContext) => Promise<Report[]>;
