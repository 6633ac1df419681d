import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, pageOf, type PageRequest } from '../../lib/page.js';
import type { InstanceAnswer, RevisionAnswer, RevisionDiff } from './deployments.schema.js';
import type { RevisionDocument } from './deployments.table.js';
import { type Difference, differences } from './difference.js';
import * as store from './history.store.js';

export type { By, PresentRow } from './history.store.js';

/** So many at once where it may be all that there are. */
const AT_A_TIME = 500;
const INSTANCES_SHOWN = 20;

/** What each deployment was to run, and who changed it: revisions, which are written and never changed. */
export class History {
  readonly #db: Kysely<Schema>;
  readonly #usualImage: string;

  constructor({ db, usualImage }: { db: Kysely<Schema>; usualImage: string }) {
    this.#db = db;
    this.#usualImage = usualImage;
  }

  /** Of those that are to run something else than before: last in the transaction that changes them, but for events. */
  async record(trx: Transaction<Schema>, userId: string, deploymentIds: Iterable<string>, by: store.By): Promise<void> {
    await store.record(trx, userId, wantedOf(deploymentIds), by, this.#usualImage);
  }

  async recordAcrossTenants(trx: Transaction<Schema>, deploymentIds: Iterable<string>, by: store.By): Promise<void> {
    await store.recordAcrossTenants(trx, wantedOf(deploymentIds), by, this.#usualImage);
  }

  /** Of all that run something else than was written down, which are those of another usual image. */
  async recordAll(by: store.By): Promise<void> {
    let ids = [''];
    do {
      ids = await store.unrecordedAcrossTenants(this.#db, ids.at(-1) ?? '', AT_A_TIME, this.#usualImage);
      await store.recordAcrossTenants(this.#db, wantedOf(ids), by, this.#usualImage);
    } while (ids.length === AT_A_TIME);
  }

  /** Newest first. */
  async list(userId: string, deploymentId: string, page: PageRequest): Promise<Page<RevisionAnswer>> {
    if (!(await store.isThere(this.#db, userId, deploymentId))) throw new AppError('not_found', 'deployment not found');
    const rows = await store.listRevisions(this.#db, userId, deploymentId, page);
    const total = await store.countRevisions(this.#db, userId, deploymentId);
    return pageOf(rows, page, total, (row) => answerOf(row, rows[rows.indexOf(row) + 1]));
  }

  async get(userId: string, deploymentId: string, number: number): Promise<RevisionAnswer> {
    const found = await this.#read(userId, deploymentId, [number - 1, number]);
    return answerOf(find(found, number), found.get(number - 1));
  }

  async diff(userId: string, deploymentId: string, from: number, to: number): Promise<RevisionDiff> {
    const found = await this.#read(userId, deploymentId, [from, to]);
    const [before, after] = [find(found, from), find(found, to)];
    return { deployment_id: deploymentId, from, to, changes: differences(before.document, after.document) };
  }

  /** Where what it is to run differs. */
  compare(before: RevisionDocument, after: RevisionDocument): Difference[] {
    return differences(documentIn(before), documentIn(after));
  }

  /** What it was to run at that revision. */
  async documentAt(trx: Transaction<Schema>, userId: string, deploymentId: string, number: number): Promise<RevisionDocument> {
    return find(await store.readRevisions(trx, userId, deploymentId, [number]), number).document;
  }

  /** The user's deployments as they are to be now. */
  present(db: Kysely<Schema>, userId: string, which: { id: string } | PageRequest): Promise<store.PresentRow[]> {
    return store.readPresent(db, userId, which, this.#usualImage);
  }

  /** The containers that it had lately and has, the newest first. */
  async instances(userId: string, deploymentId: string): Promise<InstanceAnswer[]> {
    const rows = await store.listInstances(this.#db, userId, deploymentId, INSTANCES_SHOWN);
    return rows.map(({ created_at, started_at, ended_at, ...row }) => ({
      ...row,
      created_at: created_at.toISOString(),
      started_at: started_at?.toISOString() ?? null,
      ended_at: ended_at?.toISOString() ?? null,
    }));
  }

  async #read(userId: string, deploymentId: string, numbers: readonly number[]): Promise<Map<number, store.RevisionRow>> {
    if (!(await store.isThere(this.#db, userId, deploymentId))) throw new AppError('not_found', 'deployment not found');
    return store.readRevisions(this.#db, userId, deploymentId, numbers);
  }
}

/** Without what a deployment has besides. */
function documentIn({ kind, image, image_from, network, limits, limits_set, tier, agents }: RevisionDocument): RevisionDocument {
  return { kind, image, image_from, network, limits, limits_set, tier, agents };
}

function wantedOf(deploymentIds: Iterable<string>): { id: string; deploymentId: string }[] {
  return [...new Set(deploymentIds)].map((deploymentId) => ({ id: newId('rev'), deploymentId }));
}

function find(found: Map<number, store.RevisionRow>, number: number): store.RevisionRow {
  const row = found.get(number);
  if (!row) throw new AppError('not_found', 'revision not found');
  return row;
}

function answerOf(row: store.RevisionRow, before: store.RevisionRow | undefined): RevisionAnswer {
  return {
    deployment_id: row.deployment_id,
    revision: row.number,
    ...row.document,
    changes: differences(before?.document ?? null, row.document),
    actor: row.actor,
    request_id: row.request_id,
    reason: row.reason,
    created_at: row.created_at.toISOString(),
  };
}
