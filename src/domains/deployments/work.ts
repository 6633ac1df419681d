import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent, changeSaying } from '../../events/outbox.js';
import { Gathering } from '../../lib/gathering.js';
import type { DeploymentState, NetworkPolicy, Stage, StageTiming } from './deployments.table.js';
import { sayWoken } from './announcements.js';
import * as store from './work.store.js';

export type { Lease } from './work.store.js';

/** A leased deployment as it is now: the wish, the limits of its user's tier, and the instance that lives, if any. */
export type Leased = Awaited<ReturnType<typeof store.readLeasedAcrossTenants>> extends Map<string, infer One> ? One : never;

/** An instance that lives, as every Berth process must know it to serve its link. */
export interface LiveInstance {
  id: string;
  name: string;
  deploymentId: string;
  /** Empty while it is nobody's. */
  userId: string;
  tokenDigest: string;
  started: boolean;
  network: NetworkPolicy;
  /** Whether it sleeps for want of use, so that it gives no signs of life. */
  rests: boolean;
}

/** A write came under a lease that another process holds by now: this one's pass ends, nothing was changed. */
export class LeaseLost extends Error {
  constructor(deploymentId: string) {
    super(`the lease on ${deploymentId} is lost`);
    this.name = 'LeaseLost';
  }
}

/** Short, so that what a killed process held is taken up soon; a process that is slower than this loses its lease and changes nothing. */
const LEASE_S = 10;

/** What the reconciler may do to deployments and instances: each write under a lease, each change announced. */
export class DeploymentWork {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #processId: string;
  readonly #marks = new Gathering((ids: string[]) => this.lookAgain([...new Set(ids)]));
  readonly #ends = new Gathering((ends: store.PassEnd[]) => store.releaseAcrossTenants(this.#db, ends, 'skip'));

  constructor({ db, bus, processId }: { db: Kysely<Schema>; bus: Bus; processId: string }) {
    this.#db = db;
    this.#bus = bus;
    this.#processId = processId;
  }

  claim(limit: number): Promise<store.Lease[]> {
    return store.claimDueAcrossTenants(this.#db, this.#processId, limit, LEASE_S);
  }

  /**
   * Keeps the leases of what this process works on; call it well within 10 s. Only of that: a lease whose claim or release was not answered
   * must run out, or nobody would ever work on its deployment again.
   */
  renew(deploymentIds: string[]): Promise<void> {
    return store.renewLeasesAcrossTenants(this.#db, this.#processId, deploymentIds, LEASE_S);
  }

  /** On a database that only one process can open, every lease found at the start is a dead process's. */
  async dropAllLeases(): Promise<void> {
    await store.dropLeasesAcrossTenants(this.#db);
  }

  async read(lease: store.Lease): Promise<Leased> {
    const leased = (await this.readAll([lease])).get(lease.deploymentId);
    if (!leased) throw new LeaseLost(lease.deploymentId);
    return leased;
  }

  /** Those whose lease still holds, by id. */
  async readAll(leases: readonly store.Lease[]): Promise<Map<string, Leased>> {
    return leases.length === 0 ? new Map() : store.readLeasedAcrossTenants(this.#db, leases);
  }

  /** Records how far the deployment is; each stage on the way is an event, and so is what `event` names. */
  async enter(
    lease: store.Lease,
    values: {
      state: DeploymentState;
      stage: Stage;
      stages: StageTiming[];
      reason?: string | null;
      attempts?: number;
      room_mib?: null;
      queued_at?: null;
    },
    event = values.state === 'deploying' ? 'deployment.stage' : undefined,
  ): Promise<void> {
    const { deploymentId: deployment_id, userId } = lease;
    const payload = { deployment_id, stage: values.stage, ...(values.reason ? { reason: values.reason } : {}) };
    if (event === undefined || userId === null) await this.#write(this.#db, lease, values);
    else {
      const said = { type: event, actor: 'reconciler', requestId: null, payload };
      const isHeld = await changeSaying(this.#db, userId, said, (db) => store.leasedUpdateAcrossTenants(db, lease, values));
      if (!isHeld) throw new LeaseLost(deployment_id);
    }
    this.#bus.publish('deployment', lease.deploymentId);
  }

  /** Notes what holds its volume to its size and how large that is, or that it gives its room back. */
  async note(
    lease: store.Lease,
    change: Pick<store.DeploymentChange, 'disk' | 'disk_size_mib' | 'disk_pending' | 'room_mib' | 'queued_at'>,
  ): Promise<void> {
    await this.#write(this.#db, lease, change);
    // Somebody may wait for it.
    if (change.room_mib === null) this.#bus.publish('deployment', lease.deploymentId);
  }

  /** Adds the live instance of that role, a generation further. */
  async admit(
    lease: store.Lease,
    instance: {
      id: string;
      generation: number;
      name: string;
      specHash: string;
      limits: string;
      tokenDigest: string;
      role: 'current' | 'incoming';
      image: string;
    },
    progress: { stage: Stage; stages: StageTiming[] },
  ): Promise<void> {
    const { id, generation, name, limits, role, image, specHash: spec_hash, tokenDigest: token_digest } = instance;
    const change = { generation, state: 'deploying' as const, ...progress };
    const row = { id, generation, name, limits, role, image, spec_hash, token_digest };
    await this.#saying(lease, 'instance.created', { instance_id: id, generation, role }, async (db) => {
      if (!(await store.admitInstanceAcrossTenants(db, lease, change, row))) throw new LeaseLost(lease.deploymentId);
    });
    this.#bus.publish('deployment', lease.deploymentId);
  }

  async updateInstance(
    lease: store.Lease,
    instanceId: string,
    values: Parameters<typeof store.updateInstanceAcrossTenants>[3],
    change: store.DeploymentChange = {},
  ): Promise<void> {
    const { ended, stopped } = values;
    const event = ended === undefined ? (stopped ? 'instance.stopped' : undefined) : 'instance.ended';
    const payload = { instance_id: instanceId, ...(ended === undefined ? {} : { reason: ended }) };
    await this.#saying(lease, event, payload, async (db) => {
      if (!(await store.updateInstanceAcrossTenants(db, lease, instanceId, values, change)))
        throw new LeaseLost(lease.deploymentId);
    });
    this.#bus.publish('instance', instanceId);
    this.#bus.publish('deployment', lease.deploymentId);
  }

  /** Somebody uses what was about to rest: it does not, for `seconds` at least. */
  async stayAwake(lease: store.Lease, seconds: number): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      const woken = await store.stayAwakeAcrossTenants(trx, lease, seconds);
      if (woken) await sayWoken(trx, [{ id: lease.deploymentId, user_id: lease.userId }], 'busy');
    });
  }

  /** Gives the lease back, in one statement with others that end meanwhile: what the pass saw when it began, and when to look next. */
  async release(lease: store.Lease, seen: Leased, next: { dueInMs: number | undefined; failed: boolean }): Promise<void> {
    const end = { lease, seen: seen.deployment, ...next };
    const given = await this.#ends.add(end);
    // Somebody holds the row, maybe for long: nobody else waits for that.
    if (!given.has(lease.deploymentId)) await store.releaseAcrossTenants(this.#db, [end], 'wait');
  }

  async erase(lease: store.Lease): Promise<void> {
    await store.eraseLeasedAcrossTenants(this.#db, lease);
    this.#bus.publish('deployment', lease.deploymentId);
    if (lease.userId !== null) this.#bus.publish('user', lease.userId);
  }

  /** Of those deployments; of all where none are named. */
  async liveInstances(deploymentIds?: string[]): Promise<LiveInstance[]> {
    const rows = await store.readLiveInstancesAcrossTenants(this.#db, deploymentIds);
    return rows.map((row) => ({
      id: row.id,
      name: row.name,
      deploymentId: row.deployment_id,
      userId: row.user_id ?? '',
      tokenDigest: row.token_digest,
      started: row.started_at !== null,
      network: row.network,
      rests: row.rest !== null,
    }));
  }

  /** Ends the pause of every deployment that failed with a reason that begins so. */
  async endPausesFor(reason: string): Promise<void> {
    for (const id of await store.endPausesAcrossTenants(this.#db, reason)) this.#bus.publish('deployment', id);
  }

  /** Forgets instances that ended a week ago. */
  pruneEnded(): Promise<void> {
    return store.pruneEndedAcrossTenants(this.#db, 7);
  }

  /** Whose an instance is; empty where it is nobody's. */
  async ownerOf(instanceId: string): Promise<string> {
    return (await store.readOwnerAcrossTenants(this.#db, instanceId)) ?? '';
  }

  /** What a deployment's instances may reach; nothing where there is no such deployment. */
  async networkOf(deploymentId: string): Promise<NetworkPolicy> {
    return (await store.readNetworkAcrossTenants(this.#db, deploymentId)) ?? { mode: 'none' };
  }

  /** Says on the deployment's status what an instance did that got its link cut. */
  async noteAbuse(deploymentId: string, reason: string): Promise<void> {
    await store.noteReasonAcrossTenants(this.#db, deploymentId, `its link was cut: ${reason}`);
    this.#bus.publish('deployment', deploymentId);
  }

  volumes(): Promise<Set<string>> {
    return store.readVolumesAcrossTenants(this.#db);
  }

  /** Something outside happened to these: they are looked at again, those that failed at the end of their pause. */
  async lookAgain(deploymentIds: string[]): Promise<void> {
    const marked = new Set(await store.lookAgainAcrossTenants(this.#db, deploymentIds, 'skip'));
    for (const id of marked) this.#bus.publish('deployment', id);
    const held = deploymentIds
      .filter((id) => !marked.has(id))
      .map(async (id) => {
        await store.lookAgainAcrossTenants(this.#db, [id]);
        this.#bus.publish('deployment', id);
      });
    await Promise.all(held);
  }

  /** The same, in one statement with what else is said meanwhile: after a restart every link comes up within a moment. */
  lookAgainSoon(deploymentId: string): Promise<void> {
    return this.#marks.add(deploymentId);
  }

  /** Writes, and with it the event that this is, where there is one and somebody whose it is. */
  async #saying(
    lease: store.Lease,
    event: string | undefined,
    payload: Record<string, unknown>,
    write: (db: Kysely<Schema>) => Promise<void>,
  ): Promise<void> {
    const { userId, deploymentId } = lease;
    if (event === undefined || userId === null) return write(this.#db);
    await this.#db.transaction().execute(async (trx) => {
      await write(trx);
      const said = { deployment_id: deploymentId, ...payload };
      await appendEvent(trx, userId, { type: event, actor: 'reconciler', requestId: null, payload: said });
    });
  }

  async #write(db: Kysely<Schema>, lease: store.Lease, change: store.DeploymentChange): Promise<void> {
    if (!(await store.updateLeasedAcrossTenants(db, lease, change))) throw new LeaseLost(lease.deploymentId);
  }
}
