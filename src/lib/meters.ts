/** What is counted, by name. Labels are few and of few values: never an id, a name or a path. */
export interface MeterSpec<L extends string> {
  /** As Prometheus would have it: `berth_…_total`, `berth_…_seconds`. */
  name: string;
  help: string;
  labels?: readonly L[];
}

export type Labels<L extends string> = Record<L, string>;

/** Where the parts of Berth count what they do. `http/metrics.ts` shows it to Prometheus. */
export interface Meters {
  counter<L extends string = never>(spec: MeterSpec<L>): (labels: Labels<L>, by?: number) => void;
  /** Of seconds, from a millisecond to a minute. */
  histogram<L extends string = never>(spec: MeterSpec<L>): (labels: Labels<L>, seconds: number) => void;
  /** Read whenever it is looked at. */
  gauge<L extends string = never>(spec: MeterSpec<L>, read: () => Reading<L>[] | Promise<Reading<L>[]>): void;
}

export interface Reading<L extends string> {
  labels: Labels<L>;
  value: number;
}

/** Counts nothing. */
export const NO_METERS: Meters = {
  counter: () => () => undefined,
  histogram: () => () => undefined,
  gauge: () => undefined,
};
