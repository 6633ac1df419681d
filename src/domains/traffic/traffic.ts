import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { encodeCursor } from '../../lib/page.js';
import type { EgressAmounts, EgressLedger } from '../../link/egress.js';
import type { LinkIdentity } from '../../link/link.js';
import type { NetworkAnswer } from './traffic.schema.js';
import * as store from './traffic.store.js';

/** Targets of a deployment that are counted one by one between two writes, and in a day. */
const TARGETS_AT_ONCE = 256;
const HOSTS_A_DAY = 500;
const TALLIES_A_STATEMENT = 1_000;
const DEFAULT_DAYS = 30;
const KEPT_DAYS = 90;
const DAY_MS = 86_400_000;

/** What goes out to the internet, by host and bytes: counted in memory, written now and then. */
export class Traffic implements EgressLedger {
  readonly #db: Kysely<Schema>;
  #pending = new Map<string, Map<string, store.Tally>>();

  constructor({ db }: { db: Kysely<Schema> }) {
    this.#db = db;
  }

  note(identity: LinkIdentity, target: { host: string; port: number }, amounts: EgressAmounts): void {
    const tally = this.#tallyOf(identity, target);
    tally.connections += amounts.connections ?? 0;
    tally.refused += amounts.refused ?? 0;
    tally.bytes_up += amounts.bytesUp ?? 0;
    tally.bytes_down += amounts.bytesDown ?? 0;
  }

  /** Writes what was counted since the last time. What cannot be written is kept for the next. */
  async flush(): Promise<void> {
    const tallies = [...this.#pending.values()].flatMap((targets) => [...targets.values()]);
    this.#pending = new Map();
    while (tallies.length > 0) {
      const some = tallies.slice(0, TALLIES_A_STATEMENT);
      try {
        await store.addAcrossTenants(this.#db, some, HOSTS_A_DAY);
      } catch (error) {
        for (const tally of tallies) this.#keep(tally);
        throw error;
      }
      tallies.splice(0, some.length);
    }
  }

  /** The policy in force for an agent, and what went where since a day. */
  async network(
    userId: string,
    agent: string,
    query: { since?: string | undefined; cursor?: string | undefined; offset?: number | undefined; limit?: number | undefined },
  ): Promise<NetworkAnswer> {
    const found = await store.readNetwork(this.#db, userId, agent);
    if (!found) throw new AppError('not_found', 'agent not found');
    const since = query.since ?? new Date(Date.now() - DEFAULT_DAYS * DAY_MS).toISOString().slice(0, 10);
    const which = { deploymentId: found.deployment_id, since };
    const page = { after: placeOf(query.cursor), offset: query.offset ?? 0, limit: query.limit ?? 50 };
    const rows = await store.readByHost(this.#db, userId, which, page);
    const totals = await store.readTotals(this.#db, userId, which);
    const data = rows.slice(0, page.limit).map((row) => ({
      host: row.host,
      port: row.port,
      ...amountsOf(row),
      last_at: row.last_at.toISOString(),
    }));
    const last = data.at(-1);
    const hasMore = rows.length > page.limit && last !== undefined;
    return {
      agent: found.name,
      network: found.network,
      shared_with: found.siblings ?? [],
      since,
      totals: amountsOf(totals),
      data,
      pagination: { next_cursor: hasMore ? encodeCursor(`${last.host} ${last.port}`) : null, has_more: hasMore, total: null },
    };
  }

  prune(): Promise<void> {
    return store.pruneAcrossTenants(this.#db, KEPT_DAYS);
  }

  /** Part of the user's deletion. */
  erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    return store.eraseTraffic(trx, userId);
  }

  #tallyOf({ userId, deploymentId }: LinkIdentity, { host, port }: { host: string; port: number }): store.Tally {
    let targets = this.#pending.get(deploymentId);
    if (!targets) this.#pending.set(deploymentId, (targets = new Map()));
    const key = `${host} ${port}`;
    const known = targets.get(key);
    if (known) return known;
    if (targets.size >= TARGETS_AT_ONCE && host !== '*') return this.#tallyOf({ userId, deploymentId } as LinkIdentity, REST);
    const fresh = { user_id: userId, deployment_id: deploymentId, host, port, ...NOTHING };
    targets.set(key, fresh);
    return fresh;
  }

  #keep(tally: store.Tally): void {
    const identity = { userId: tally.user_id, deploymentId: tally.deployment_id, instanceId: '' };
    this.note(identity, tally, {
      connections: tally.connections,
      refused: tally.refused,
      bytesUp: tally.bytes_up,
      bytesDown: tally.bytes_down,
    });
  }
}

/** What is not counted by host. */
const REST = { host: '*', port: 0 };
const NOTHING = { connections: 0, refused: 0, bytes_up: 0, bytes_down: 0 };

function amountsOf(row: Record<keyof typeof NOTHING, string | number>): typeof NOTHING {
  return {
    connections: Number(row.connections),
    refused: Number(row.refused),
    bytes_up: Number(row.bytes_up),
    bytes_down: Number(row.bytes_down),
  };
}

function placeOf(cursor: string | undefined): { host: string; port: number } | undefined {
  if (cursor === undefined) return undefined;
  const [, host, port] = /^(\S{1,255}) (\d{1,5})$/.exec(Buffer.from(cursor, 'base64url').toString('utf8')) ?? [];
  if (host !== undefined && !host.includes('\0')) return { host, port: Number(port) };
  throw new AppError('invalid_request', 'invalid cursor', {
    fields: [{ path: 'cursor', message: 'must be the next_cursor of an earlier answer' }],
  });
}
