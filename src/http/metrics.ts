import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Labels, Meters, MeterSpec, Reading } from '../lib/meters.js';

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);
/** A millisecond to a minute: from a query to a container that starts. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** What the edge counts, in a registry to which other rooms add their own. Labels are bounded: patterns, never paths. */
export class HttpMetrics implements Meters {
  readonly registry: Registry;
  readonly #durations: Histogram<'route' | 'method' | 'status'>;
  readonly #inFlight: Gauge;

  constructor(registry = new Registry(), options: { process?: boolean } = {}) {
    this.registry = registry;
    if (options.process) collectDefaultMetrics({ register: registry });
    this.#durations = new Histogram({
      name: 'http_request_duration_seconds',
      help: 'From the request line to the end of the answer; streams count until they end.',
      labelNames: ['route', 'method', 'status'],
      buckets: SECONDS,
      registers: [registry],
    });
    this.#inFlight = new Gauge({
      name: 'http_requests_in_flight',
      help: 'Requests being answered, streams included.',
      registers: [registry],
    });
  }

  began(): void {
    this.#inFlight.inc();
  }

  ended(route: string, method: string, status: number, seconds: number): void {
    this.#inFlight.dec();
    const labels = { route, method: METHODS.has(method) ? method : 'other', status: `${Math.floor(status / 100)}xx` };
    this.#durations.observe(labels, seconds);
  }

  counter<L extends string = never>({ name, help, labels = [] }: MeterSpec<L>) {
    const counter = new Counter<string>({ name, help, labelNames: labels, registers: [this.registry] });
    return (of: Labels<L>, by = 1): void => counter.inc(of, by);
  }

  histogram<L extends string = never>({ name, help, labels = [] }: MeterSpec<L>) {
    // All loops of a process share theirs.
    const known = this.registry.getSingleMetric(name);
    const histogram =
      known instanceof Histogram
        ? known
        : new Histogram<string>({ name, help, labelNames: labels, buckets: SECONDS, registers: [this.registry] });
    return (of: Labels<L>, seconds: number): void => histogram.observe(of, seconds);
  }

  gauge<L extends string = never>(
    { name, help, labels = [] }: MeterSpec<L>,
    read: () => Reading<L>[] | Promise<Reading<L>[]>,
  ): void {
    const gauge: Gauge<string> = new Gauge<string>({
      name,
      help,
      labelNames: labels,
      registers: [this.registry],
      async collect() {
        // What cannot be read now is not shown: a figure of before would look like one of now. The rest is.
        const readings = await Promise.resolve(read()).catch(() => []);
        gauge.reset();
        for (const { labels: of, value } of readings) gauge.set(of, value);
      },
    });
  }
}

/** The metrics of this process, with those of Node. */
export function createMetrics(version: string): HttpMetrics {
  const metrics = new HttpMetrics(undefined, { process: true });
  metrics.gauge({ name: 'berth_build_info', help: 'Always 1; the version is its label.', labels: ['version'] }, () => [
    { labels: { version }, value: 1 },
  ]);
  return metrics;
}
