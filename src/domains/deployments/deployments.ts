import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { newId } from '../../lib/ids.js';
import { AppError } from '../../lib/errors.js';
import { type Page, pageOf, type PageRequest } from '../../lib/page.js';
import type { DeploymentAnswer, DeploymentDetail, DeploymentStatus, DeployStatus } from './deployments.schema.js';
import { type By, History, type PresentRow } from './history.js';
import * as store from './deployments.store.js';
import * as pool from './pool.store.js';
import { News } from '../../events/news.js';
import { type Limited, limitStatus, type Notice, noticesOf } from './notices.js';
import { sayImages, type WakeCause } from './announcements.js';
import { Rest } from './rest.js';
import { type NetworkPolicy, type Stage, STAGES } from './deployments.table.js';

/** How far each stage is from nothing to an agent that answers. */
const PERCENT: Record<Stage, number> = { queued: 0, creating: 10, starting: 30, connecting: 60, configuring: 90, ready: 100 };

/** How often a watcher looks without having been told of a change. */
const WATCH_POLL_MS = 500;

/** How long a deployment that was woken for its files stays up after the last call. */
const FILES_AWAKE_S = 60;

export type { Notice } from './notices.js';
export type { By } from './history.js';
export type { WakeCause } from './announcements.js';

export interface Placement {
  deploymentId: string;
  isolation: 'shared' | 'dedicated';
  /** Why it is dedicated though that was not asked for. */
  reason: string | null;
}

export interface DeploymentsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  /** A uid that no other deployment has. */
  takeUid: (trx: Transaction<Schema>) => Promise<number>;
  /** What runs where nothing else is asked for. */
  image: string;
}

/** The wishes: which deployments a user has, what they must hold, and how far the reconciler has come. */
export class Deployments {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #takeUid: DeploymentsOptions['takeUid'];
  readonly #rest: Rest;
  /** Whoever changes what a deployment runs has it recorded here, in the same transaction. */
  readonly history: History;

  constructor({ db, bus, takeUid, image }: DeploymentsOptions) {
    this.#db = db;
    this.#bus = bus;
    this.#takeUid = takeUid;
    this.#rest = new Rest(db);
    this.history = new History({ db, usualImage: image });
  }

  /**
   * Finds or makes the deployment for a new agent. Agents share the user's one container unless the agent asks for its own, or its
   * network policy would differ from its siblings': a policy is a boundary only of a container (DESIGN, trust boundary).
   */
  async place(
    trx: Transaction<Schema>,
    userId: string,
    wish: { isolation: 'shared' | 'dedicated'; network: NetworkPolicy },
  ): Promise<Placement> {
    const reason = wish.isolation === 'shared' ? await this.#whyApart(trx, userId, wish.network) : null;
    if (wish.isolation === 'shared' && reason === null) {
      const shared = await store.findShared(trx, userId);
      if (shared?.desired === 'asleep') await store.wake(trx, userId, shared.id);
      return { deploymentId: shared?.id ?? (await this.#make(trx, userId, 'shared', wish.network)), isolation: 'shared', reason };
    }
    return { deploymentId: await this.#make(trx, userId, 'dedicated', wish.network), isolation: 'dedicated', reason };
  }

  /** Holds the user's deployments, before a change of several of them one after the other. After the user's lock. */
  hold(trx: Transaction<Schema>, userId: string): Promise<void> {
    return store.hold(trx, userId);
  }

  /** Marks that the gateway of this deployment must be told something new; answers the config version that will hold it. */
  changed(trx: Transaction<Schema>, userId: string, deploymentId: string): Promise<number> {
    return store.raiseConfigVersion(trx, userId, deploymentId);
  }

  /** After an agent left: the deployment goes with its last agent, else its gateway is told. */
  async agentLeft(trx: Transaction<Schema>, userId: string, deploymentId: string): Promise<void> {
    if (await store.retireIfEmpty(trx, userId, deploymentId)) return;
    await store.raiseConfigVersion(trx, userId, deploymentId);
  }

  /**
   * The agents of a deployment changed in whether they are to run: it sleeps while none is. One that is to run again is told so anew; answers the
   * config version that holds it then.
   */
  agentsDesireChanged(trx: Transaction<Schema>, userId: string, deploymentId: string): Promise<number> {
    return store.setDesire(trx, userId, deploymentId);
  }

  /** Makes a shared deployment the own one of the only agent in it; answers whether it was alone. */
  dedicateIfAlone(trx: Transaction<Schema>, userId: string, deploymentId: string, network: NetworkPolicy): Promise<boolean> {
    return store.dedicateIfAlone(trx, userId, deploymentId, network);
  }

  /** Network, limits and image of an agent's own deployment. The network counts at once; for the others the container is made anew. */
  reshape(
    trx: Transaction<Schema>,
    userId: string,
    deploymentId: string,
    shape: Parameters<typeof store.reshape>[3],
  ): Promise<void> {
    return store.reshape(trx, userId, deploymentId, shape);
  }

  /** It is to have another container made of the same, as if its image had changed: nothing that runs is cut for it. */
  restart(trx: Transaction<Schema>, userId: string, deploymentId: string): Promise<void> {
    return store.restart(trx, userId, deploymentId);
  }

  /** Their images, unless their agent has one of its own. Answers those that there are. */
  async roll(trx: Transaction<Schema>, wishes: readonly store.RollWish[], by: By): Promise<string[]> {
    const rolled = await store.rollAcrossTenants(trx, wishes);
    const ids = rolled.map(({ id }) => id);
    await this.history.recordAcrossTenants(trx, ids, by);
    await sayImages(trx, rolled, by);
    return ids;
  }

  /** At the start: what runs on an image that the operator has taken back gets the usual one, which may be another than before. */
  async adoptImages(offered: readonly string[]): Promise<void> {
    const by = { actor: 'installation', requestId: null, reason: 'the images that the operator offers' };
    const changed = await this.#db.transaction().execute(async (trx) => {
      const rows = await store.forgetImagesAcrossTenants(trx, offered);
      await sayImages(
        trx,
        rows.map((row) => ({ ...row, image: null })),
        by,
      );
      return rows;
    });
    for (const { id } of changed) this.announce(id);
    await this.history.recordAll(by);
  }

  /** Wakes a sleeping deployment for its files alone, for a minute from now; no turn may run. */
  async wakeForFiles(userId: string, deploymentId: string): Promise<void> {
    if (await store.wakeForFiles(this.#db, userId, deploymentId, FILES_AWAKE_S)) this.announce(deploymentId);
  }

  /** Wakes what sleeps for want of use; whoever calls waits for it to be ready. Answers whether it still slept. */
  async wake(userId: string, deploymentId: string, cause: WakeCause): Promise<boolean> {
    const rested = await this.#rest.wake(userId, deploymentId, cause);
    if (rested) this.announce(deploymentId);
    return rested;
  }

  /** Puts off the rest of those that are in use, and wakes those of them that rest already. */
  async noteUse(deploymentIds: string[]): Promise<void> {
    for (const id of await this.#rest.noteUse(deploymentIds)) this.announce(id);
  }

  /** Takes those that were idle for as long as their tier says one stage further to rest. */
  async restIdle(pausedS: number): Promise<void> {
    for (const id of await this.#rest.idle(pausedS)) this.announce(id);
  }

  /** The user's limits changed: every deployment is looked at again. */
  limitsChanged(trx: Transaction<Schema>, userId: string): Promise<string[]> {
    return store.lookAgain(trx, userId);
  }

  /** The user is to be deleted: containers, volumes and rows go by the reconciler. */
  retireAll(trx: Transaction<Schema>, userId: string): Promise<string[]> {
    return store.retireAll(trx, userId);
  }

  /** Call after the commit of any of the above. */
  announce(deploymentId: string): void {
    this.#bus.publish('deployment', deploymentId);
  }

  async status(userId: string, userName: string): Promise<DeployStatus> {
    return summarise(userName, (await store.readStatus(this.#db, userId)).map(statusOf));
  }

  /** How full its disk is and how its limits hold it, by what its rows say. */
  pressureOf(limited: Limited): Pick<DeploymentStatus, 'disk' | 'pressure'> {
    const { disk, pressure } = limitStatus(limited);
    return { disk, pressure };
  }

  /** What its limits do to a deployment, by what its rows say. */
  noticesOf(limited: Limited): Notice[] {
    return noticesOf(limited, Date.now());
  }

  /** Those that are to stay; how far each is, is part of it. */
  async list(userId: string, page: PageRequest): Promise<Page<DeploymentAnswer>> {
    const answers = await this.#answers(this.#db, userId, await this.history.present(this.#db, userId, page));
    return pageOf(answers, page, null, (answer) => answer);
  }

  async get(userId: string, deploymentId: string): Promise<DeploymentDetail> {
    const answer = await this.getIn(this.#db, userId, deploymentId);
    return { ...answer, instances: await this.history.instances(userId, deploymentId) };
  }

  /** As it is in the transaction; `not_found` when there is none, or it is on its way out. */
  async getIn(db: Kysely<Schema>, userId: string, deploymentId: string): Promise<DeploymentAnswer> {
    const rows = await this.history.present(db, userId, { id: deploymentId });
    const [answer] = await this.#answers(db, userId, rows);
    if (!answer) throw new AppError('not_found', 'deployment not found');
    return answer;
  }

  /** The status now and after every change, until everything is settled or `signal` aborts. */
  async *watch(userId: string, userName: string, signal: AbortSignal): AsyncGenerator<DeployStatus> {
    const ids = new Set<string>();
    const news = new News(this.#bus, (id) => ids.has(id), signal);
    try {
      let last = '';
      while (!signal.aborted) {
        const status = await this.status(userId, userName);
        for (const deployment of status.deployments) ids.add(deployment.id);
        const text = JSON.stringify(status);
        if (text !== last) yield status;
        last = text;
        if (status.settled) return;
        await news.wait(WATCH_POLL_MS);
      }
    } finally {
      news.end();
    }
  }

  /** Of each as it is to be, how far that is; one that went meanwhile is left out. */
  async #answers(db: Kysely<Schema>, userId: string, rows: PresentRow[]): Promise<DeploymentAnswer[]> {
    if (rows.length === 0) return [];
    const ids = rows.map(({ id }) => id);
    const statuses = new Map((await store.readStatus(db, userId, ids)).map((row) => [row.id, statusOf(row)]));
    return rows.flatMap(({ id, revision, document, created_at }) => {
      const status = statuses.get(id);
      return status ? [{ id, revision, ...document, status, created_at: created_at.toISOString() }] : [];
    });
  }

  /** Why an agent that would share the user's container is not let into it. */
  async #whyApart(trx: Transaction<Schema>, userId: string, network: NetworkPolicy): Promise<string | null> {
    if (network.mode !== 'none')
      return 'its network policy differs from that of the shared container, and a policy is a boundary only of a container';
    const keeper = await store.findKeeperOfSecrets(trx, userId);
    return keeper === undefined
      ? null
      : `agent ${keeper} has the shared container to itself and secrets of its own in it, which every agent there could read`;
  }

  /** One that is ready and nobody's, if there is one; else a new one. */
  async #make(trx: Transaction<Schema>, userId: string, kind: 'shared' | 'dedicated', network: NetworkPolicy): Promise<string> {
    const ready = await pool.claim(trx, userId, { kind, network });
    if (ready !== undefined) return ready;
    const id = newId('dep');
    await store.insertDeployment(trx, userId, {
      id,
      kind,
      network,
      uid: await this.#takeUid(trx),
      volume: `berth-${id}`,
      limits: null,
      image: null,
      reason: null,
      due_at: null,
      files_until: null,
      rest: null,
      idle_at: null,
      lease_owner: null,
      lease_until: null,
    });
    return id;
  }
}

type StatusRow = Awaited<ReturnType<typeof store.readStatus>>[number];

function statusOf(row: StatusRow): DeploymentStatus {
  const behind = row.state === 'ready' && (row.applied_version ?? 0) < row.config_version;
  const stage = behind ? 'configuring' : row.stage;
  return {
    id: row.id,
    kind: row.kind === 'dedicated' ? 'dedicated' : 'shared',
    agents: row.agents ?? [],
    state: behind ? 'deploying' : row.state,
    stage,
    percent: row.state === 'asleep' ? 100 : PERCENT[stage],
    reason: row.position === null ? row.reason : `queued, position ${row.position}: ${row.reason ?? ''}`,
    queue:
      row.position === null || row.queued_at === null
        ? null
        : { position: Number(row.position), since: row.queued_at.toISOString() },
    rest: row.rest,
    attempts: row.attempts,
    next_attempt_at: row.state === 'failing' ? (row.due_at?.toISOString() ?? null) : null,
    instance:
      row.instance_id === null
        ? null
        : {
            id: row.instance_id,
            generation: row.instance_generation ?? 0,
            started_at: row.instance_started_at?.toISOString() ?? null,
          },
    ...limitStatus(row),
    stages: row.stages.map((timing) => ({ stage: timing.stage, started_at: timing.started_at, ms: timing.ms ?? null })),
  };
}

/** The user's whole: as far as the deployment that is least far. */
function summarise(user: string, deployments: DeploymentStatus[]): DeployStatus {
  const least = deployments.reduce<DeploymentStatus | undefined>(
    (low, one) => (low === undefined || rank(one) < rank(low) ? one : low),
    undefined,
  );
  return {
    user,
    state: least?.state ?? 'none',
    stage: least?.stage ?? null,
    percent: least?.percent ?? 100,
    reason: deployments.find((one) => one.reason !== null && (one.state === 'failing' || one.queue !== null))?.reason ?? null,
    attempts: deployments.reduce((most, one) => Math.max(most, one.attempts), 0),
    settled: deployments.every((one) => one.state === 'ready' || one.state === 'asleep'),
    deployments,
  };
}

function rank(status: DeploymentStatus): number {
  if (status.state === 'failing') return -2;
  if (status.state === 'deleting') return -1;
  if (status.state === 'asleep') return STAGES.length;
  return STAGES.indexOf(status.stage);
}
