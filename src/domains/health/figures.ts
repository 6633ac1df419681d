import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Meters } from '../../lib/meters.js';
import type { SystemAnswer } from './health.schema.js';
import * as store from './health.store.js';

export interface FiguresOptions {
  db: Kysely<Schema>;
  /** Instances that are linked to this process. */
  links: () => number;
  /** Entries of the audit that are not in its chain yet. */
  auditLag: () => Promise<{ count: number; oldestS: number }>;
}

/** Counting reads whole tables, so whoever asks within that time gets what was counted last. */
const KEPT_MS = 10_000;
const STATES = ['pending', 'deploying', 'ready', 'asleep', 'failing', 'deleting'];

interface Counted {
  row: store.FiguresRow;
  audit: { count: number; oldestS: number };
}

/** How much there is of everything in the installation, and of this process. */
export class Figures {
  readonly #options: FiguresOptions;
  #counted: { atMs: number; value: Promise<Counted> } | undefined;

  constructor(options: FiguresOptions) {
    this.#options = options;
  }

  async read(): Promise<SystemAnswer> {
    const { row, audit } = await this.#count();
    const { rss, heapUsed } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    return {
      ...row,
      deployments: byState(row),
      audit: { unsealed: audit.count, oldest_unsealed_s: audit.oldestS },
      process: {
        uptime_s: Math.round(process.uptime()),
        resident_bytes: rss,
        heap_bytes: heapUsed,
        cpu_s: (user + system) / 1e6,
        links: this.#options.links(),
      },
    };
  }

  /** The same to Prometheus. What is the installation's is said by each of its processes: take the largest, not the sum. */
  show(meters: Meters): void {
    const one = (name: string, help: string, of: (counted: Counted) => number) =>
      meters.gauge({ name, help }, async () => [{ labels: {}, value: of(await this.#count()) }]);
    one('berth_users', 'Users of the installation.', ({ row }) => row.users);
    one('berth_agents', 'Agents of the installation.', ({ row }) => row.agents);
    one('berth_instances', 'Instances that live.', ({ row }) => row.instances);
    one('berth_turns_running', 'Turns that run, by the journal.', ({ row }) => row.turns_running);
    one('berth_processes', 'Berth processes that were heard of in the last 15 seconds.', ({ row }) => row.processes);
    one(
      'berth_reconcile_overdue_seconds',
      'For how long the deployment that waits longest has been due, and nobody works on it.',
      ({ row }) => row.reconcile_overdue_s,
    );
    one('berth_audit_unsealed_entries', 'Audit entries that are not in the chain yet.', ({ audit }) => audit.count);
    one('berth_audit_unsealed_seconds', 'Age of the oldest of them.', ({ audit }) => audit.oldestS);
    meters.gauge({ name: 'berth_deployments', help: 'Deployments of the installation.', labels: ['state'] }, async () =>
      Object.entries(byState((await this.#count()).row)).map(([state, value]) => ({ labels: { state }, value })),
    );
    meters.gauge({ name: 'berth_links', help: 'Instances that are linked to this process.' }, () => [
      { labels: {}, value: this.#options.links() },
    ]);
  }

  #count(): Promise<Counted> {
    const nowMs = performance.now();
    if (this.#counted && nowMs - this.#counted.atMs < KEPT_MS) return this.#counted.value;
    const value = Promise.all([store.countAcrossTenants(this.#options.db), this.#options.auditLag()]).then(([row, audit]) => ({
      row,
      audit,
    }));
    this.#counted = { atMs: nowMs, value };
    // What failed is not kept.
    value.catch(() => (this.#counted = undefined));
    return value;
  }
}

/** All states, so that a line does not end where none is left. */
function byState({ deployments }: store.FiguresRow): Record<string, number> {
  return { ...Object.fromEntries(STATES.map((state) => [state, 0])), ...deployments };
}
