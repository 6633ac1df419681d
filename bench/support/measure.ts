/** Times in milliseconds, gathered over all rounds of a run. */
export class Times {
  readonly #values: number[] = [];

  add(ms: number): void {
    this.#values.push(ms);
  }

  addAll(values: Iterable<number>): void {
    for (const ms of values) this.#values.push(ms);
  }

  get n(): number {
    return this.#values.length;
  }

  /** The value that the share `q` of all is at or below. NaN where there is none. */
  at(q: number): number {
    const sorted = this.#values.toSorted((a, b) => a - b);
    return sorted[Math.max(0, Math.ceil(sorted.length * q) - 1)] ?? NaN;
  }

  get p50(): number {
    return this.at(0.5);
  }

  get p99(): number {
    return this.at(0.99);
  }

  /** Those that were added from the `from`th to before the `to`th. */
  slice(from: number, to?: number): Times {
    const part = new Times();
    part.addAll(this.#values.slice(from, to));
    return part;
  }
}

/** One line of a benchmark's table. */
export interface Row {
  what: string;
  n: number;
  p50?: number;
  p99?: number;
  perS?: number;
  /** For what is neither a time nor a rate. */
  value?: string;
}

/** A figure that the project promised, and whether it holds in this run. */
export interface Verdict {
  what: string;
  value: number;
  unit: string;
  atMost?: number;
  atLeast?: number;
}

export interface Report {
  title: string;
  rows: Row[];
  verdicts: Verdict[];
  notes: string[];
}

export function isMet({ value, atMost, atLeast }: Verdict): boolean {
  return value <= (atMost ?? Infinity) && value >= (atLeast ?? -Infinity);
}

export function rowOf(what: string, times: Times, perS?: number): Row {
  return { what, n: times.n, p50: times.p50, p99: times.p99, ...(perS === undefined ? {} : { perS }) };
}

/** What `mine` adds to `floor`, as a line below the two. */
export function addedRow(what: string, floor: Times, mine: Times): Row {
  return { what, n: mine.n, p50: mine.p50 - floor.p50, p99: mine.p99 - floor.p99 };
}

/** The slope of the straight line that fits best, per step of x. */
export function slopeOf(points: readonly { x: number; y: number }[]): number {
  const meanX = points.reduce((sum, { x }) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, { y }) => sum + y, 0) / points.length;
  const above = points.reduce((sum, { x, y }) => sum + (x - meanX) * (y - meanY), 0);
  return above / points.reduce((sum, { x }) => sum + (x - meanX) ** 2, 0);
}

export function printed({ title, rows, verdicts, notes }: Report): string {
  const cells = rows.map((row) => [row.what, String(row.n), time(row.p50), time(row.p99), rate(row.perS), row.value ?? '']);
  const table = [['', 'n', 'p50 ms', 'p99 ms', 'per s', ''], ...cells];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  const lines = table.map((line) =>
    line
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  );
  const judged = verdicts.map((verdict) => `${isMet(verdict) ? 'met   ' : 'MISSED'}  ${saidOf(verdict)}`);
  return [`\n${title}`, '-'.repeat(title.length), ...lines, ...judged, ...notes.map((note) => `note    ${note}`)].join('\n');
}

function saidOf({ what, value, unit, atMost, atLeast }: Verdict): string {
  const target = atMost === undefined ? `at least ${atLeast}` : `at most ${atMost}`;
  return `${what}: ${value.toFixed(2)}${unit === '' ? '' : ` ${unit}`} (target ${target}${unit === '' ? '' : ` ${unit}`})`;
}

function time(value: number | undefined): string {
  return value === undefined ? '' : value.toFixed(Math.abs(value) < 10 ? 3 : 1);
}

function rate(value: number | undefined): string {
  return value === undefined ? '' : value.toFixed(0);
}
