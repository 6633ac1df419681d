import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { Runtime } from '../../runtime/runtime.js';
import { Intake } from './intake.js';
import { LOG_LIMITS, type LogLimits } from './limits.js';
import type { Redact } from './redact.js';
import * as store from './logs.store.js';

export interface LogCollectionOptions {
  db: Kysely<Schema>;
  bus: Bus;
  runtime: Pick<Runtime, 'logs'>;
  /** Shared by all Berth processes of a host. */
  dir: string;
  processId: string;
  log: Log;
  redactorFor(userId: string): Promise<Redact>;
  limits?: Partial<LogLimits> | undefined;
  /** A user's stream has grown. */
  onWritten(userId: string): void;
  /** A segment of it is full. */
  onSealed(userId: string): void;
}

const LEASE_S = 10;
/** What this process takes off a lease, so that it stops to write before another begins. */
const MARGIN_MS = 2_000;
/** A stream with nothing to collect is given up after so long. */
const IDLE_MS = 60_000;
/** Taken in one statement, so that a restart beside many costs few. */
const OPEN_AT_ONCE = 32;

/** Collects what instances print: of each user in one process, which holds the lease of the user's stream. */
export class LogCollection {
  readonly #options: LogCollectionOptions;
  readonly #limits: LogLimits;
  readonly #intakes = new Map<string, Intake>();
  readonly #leases = new Map<string, store.StreamLease>();
  #passing: Promise<void> | undefined;

  constructor(options: LogCollectionOptions) {
    this.#options = options;
    this.#limits = { ...LOG_LIMITS, ...options.limits };
    options.bus.subscribe('deployment', (id) => this.#refresh(id));
    options.bus.subscribe('user', (id) => this.#intakes.get(id)?.refresh());
    options.bus.onTrustLost(() => this.#refresh());
  }

  /** On a database that only one process can open, every lease found at the start is a dead process's. */
  async dropAllLeases(): Promise<void> {
    await store.dropStreamLeasesAcrossTenants(this.#options.db);
  }

  /** Takes up instances that have come, lets go of those that have gone, and keeps its leases. */
  async run(): Promise<void> {
    // Whoever asks during a pass wants one that begins later.
    if (this.#passing) await this.#passing.catch(() => undefined);
    await (this.#passing ??= this.#pass().finally(() => (this.#passing = undefined)));
  }

  /** Resolves once what an instance printed before it ended is read, or after a moment. Where another process collects it, at once. */
  async lastWords(instanceId: string): Promise<void> {
    // One that ended as soon as it began may not have been taken up.
    if (![...this.#intakes.values()].some((intake) => intake.collects(instanceId))) await this.run();
    await Promise.all([...this.#intakes.values()].map((intake) => intake.lastWords(instanceId)));
  }

  /** Writes what was read, and gives the leases back. */
  async stop(): Promise<void> {
    await this.#passing?.catch(() => undefined);
    await Promise.all([...this.#intakes.keys()].map((userId) => this.#close(userId)));
  }

  async #pass(): Promise<void> {
    await this.#renew();
    const byUser = new Map<string, store.SourceRow[]>();
    for (const row of await store.readSourcesAcrossTenants(this.#options.db, this.#options.processId)) {
      byUser.set(row.user_id, [...(byUser.get(row.user_id) ?? []), row]);
    }
    const fresh = [...byUser.keys()].filter((userId) => !this.#intakes.has(userId));
    for (let at = 0; at < fresh.length; at += OPEN_AT_ONCE) {
      await this.#openAll(fresh.slice(at, at + OPEN_AT_ONCE));
    }
    for (const [userId, intake] of this.#intakes) {
      const rows = byUser.get(userId) ?? [];
      intake.follow(rows.map(sourceOf));
      if (rows.length === 0 && intake.idleMs > IDLE_MS) await this.#close(userId);
    }
  }

  async #openAll(userIds: string[]): Promise<void> {
    const { db, processId, log } = this.#options;
    const heldUntilMs = heldUntil(performance.now());
    try {
      const leases = await store.claimStreamsAcrossTenants(db, userIds, processId, LEASE_S);
      const left = await store.readLeftAcrossTenants(
        db,
        leases.map(({ userId }) => userId),
      );
      await Promise.all(leases.map((lease) => this.#open(lease, left.get(lease.userId) ?? [], heldUntilMs)));
    } catch (error) {
      // The leases run out, and whoever comes next tries again.
      log.error({ err: error, users: userIds }, `the logs of users cannot be collected: ${messageOf(error)}`);
    }
  }

  async #open(lease: store.StreamLease, left: store.LeftSegment[], heldUntilMs: number): Promise<void> {
    const { db, dir, runtime, log, redactorFor } = this.#options;
    const { userId } = lease;
    try {
      const onWritten = () => this.#options.onWritten(userId);
      const onSealed = () => this.#options.onSealed(userId);
      const place = { dir, userId };
      const limits = this.#limits;
      const options = { db, runtime, log, redactorFor, place, lease, left, heldUntilMs, limits, onWritten, onSealed };
      this.#intakes.set(userId, await Intake.open(options));
      this.#leases.set(userId, lease);
    } catch (error) {
      // The lease runs out, and whoever comes next tries again.
      log.error({ err: error, user: userId }, `the logs of a user cannot be collected: ${messageOf(error)}`);
    }
  }

  async #renew(): Promise<void> {
    const { db, processId, log } = this.#options;
    const begunMs = performance.now();
    const kept = await store.renewStreamsAcrossTenants(db, processId, [...this.#intakes.keys()], LEASE_S);
    for (const [userId, intake] of this.#intakes) {
      if (!kept.has(userId)) await this.#close(userId);
      else {
        intake.hold(heldUntil(begunMs));
        await intake.note().catch((error: unknown) => log.warn({ err: error }, `a stream of logs: ${messageOf(error)}`));
      }
    }
  }

  async #close(userId: string): Promise<void> {
    const { db, log } = this.#options;
    const [intake, lease] = [this.#intakes.get(userId), this.#leases.get(userId)];
    this.#intakes.delete(userId);
    this.#leases.delete(userId);
    try {
      await intake?.close();
      if (lease) await store.releaseStream(db, userId, lease);
    } catch (error) {
      log.warn({ err: error, user: userId }, `a stream of logs could not be given back: ${messageOf(error)}`);
    }
  }

  #refresh(deploymentId?: string): void {
    for (const intake of this.#intakes.values()) intake.refresh(deploymentId);
  }
}

function heldUntil(begunMs: number): number {
  return begunMs + LEASE_S * 1_000 - MARGIN_MS;
}

function sourceOf({ id, name, deployment_id, generation, stopped }: store.SourceRow) {
  return { instanceId: id, name, deploymentId: deployment_id, generation, stopped };
}
