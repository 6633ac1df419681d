import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

/** What the edge counts, in a registry to which other rooms add their own. Labels are bounded: patterns, never paths. */
export class HttpMetrics {
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
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60],
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
}
