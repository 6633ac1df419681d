import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import type { KeyFiles } from '../../vault/key-files.js';
import type { Vault } from '../../vault/vault.js';
import type { RotationAnswer } from './vault-rotation.schema.js';
import * as store from './vault-rotation.store.js';

/** Things of one kind that are sealed under a master key. */
export interface Resealed {
  /** How many are sealed under another key than that. */
  left(db: Kysely<Schema>, keyId: Buffer): Promise<number>;
  /** Seals up to so many of them under the vault's current key; answers how many. One that another holds is passed over. */
  reseal(trx: Transaction<Schema>, keyId: Buffer, atMost: number): Promise<number>;
}

export interface VaultRotationOptions {
  db: Kysely<Schema>;
  bus: Bus;
  vault: Vault;
  log: Log;
  processId: string;
  /** Where the master key is kept; undefined where it comes from the environment. */
  files: KeyFiles | undefined;
  resealed: Resealed[];
  /** Seals what belongs to the installation anew and stores the new key check: from then on the vault's current key is the key. */
  adopt: (trx: Transaction<Schema>) => Promise<void>;
  /** The key check that is stored. */
  keyCheck: (db: Kysely<Schema>) => Promise<Buffer>;
  /** Whether no other process can be on this database. */
  alone: boolean;
}

/** `wait`: for another process, or for rows that are being changed. */
type Next = 'again' | 'wait' | 'idle';

const AT_ONCE = 100;
/** A process that has not been heard of for so long is dead (it says so every 5 s). */
const ALIVE_S = 15;
/** After the end, what a process that slept through it has sealed under the key before is still looked for. */
const STRAGGLERS_MS = 10 * 60_000;

/**
 * Changes the master key while everything goes on: a key that every process has, then everything sealed under it, then its check stored and its
 * file put in the place of the old one. Each step is one transaction or one rename and can be done again; any process goes on after a kill.
 */
export class VaultRotation {
  readonly #options: VaultRotationOptions;
  readonly #db: Kysely<Schema>;
  #saidMissing = false;

  constructor(options: VaultRotationOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** Before anything is sealed: takes the part in a running rotation that this process has, or throws where it cannot. */
  async join(): Promise<void> {
    const { vault } = this.#options;
    const row = await store.latestAcrossTenants(this.#db);
    if (isSealing(row) && !vault.masterKeyIds().includes(row.to_key)) throw new Error(this.#whatIsMissing(row.to_key));
    if (isSealing(row)) vault.sealUnder(row.to_key);
    await this.#options.files?.tidy();
    await store.forgetKeyringsAcrossTenants(this.#db);
    await this.#report();
  }

  /** By an operator's wish: makes the next key. `conflict` where the key comes from the environment, or one is being changed already. */
  async begin(): Promise<RotationAnswer> {
    const { files, vault } = this.#options;
    if (!files) {
      throw new AppError(
        'conflict',
        'the master key comes from the environment: start every Berth process with MASTER_KEY set to the new key (openssl rand -base64 32) and ' +
          'MASTER_KEY_PREVIOUS to the old one; the rotation begins by itself, and GET /api/v1/vault/rotations/current shows how far it is',
      );
    }
    const begun = await this.#db.transaction().execute(async (trx) => {
      await store.holdFilesAcrossTenants(trx);
      const last = await store.latestAcrossTenants(trx);
      return (!last || last.state === 'done') && this.#insert(trx, await files.makeNext());
    });
    if (!begun) throw new AppError('conflict', 'the master key is being changed already');
    this.#say(vault.sealingId);
    return this.current();
  }

  async current(): Promise<RotationAnswer> {
    return answerOf(await store.latestAcrossTenants(this.#db));
  }

  /** Goes on as far as it can now. */
  async run(signal: AbortSignal): Promise<void> {
    // What it waits for is looked at again at the next turn of the loop, which the bus wakes.
    while (!signal.aborted && (await this.step()) === 'again');
  }

  /** One step. */
  async step(): Promise<Next> {
    const { vault } = this.#options;
    const row = await store.latestAcrossTenants(this.#db);
    const known = vault.masterKeyIds();
    if (!row || row.state === 'done') return this.#rest(row, known);
    if (!known.includes(row.to_key)) {
      if (!this.#saidMissing) this.#options.log.error({ rotation: row.id }, this.#whatIsMissing(row.to_key));
      this.#saidMissing = true;
      return 'wait';
    }
    if (isSealing(row)) vault.sealUnder(row.to_key);
    await this.#report();
    return this.#lead();
  }

  /** No rotation runs: one may be due, by the environment or by a file that a killed process made. */
  async #rest(last: store.RotationRow | undefined, known: string[]): Promise<Next> {
    const { vault, files } = this.#options;
    vault.sealUnder(await this.#options.keyCheck(this.#db));
    await this.#report();
    const sealing = vault.sealingId;
    const wished = files ? files.nextId() : vault.configuredId;
    if (wished !== undefined && known.includes(wished) && (await this.#takeUp(wished))) return 'again';
    if (last?.ended_at && Date.now() - last.ended_at.getTime() < STRAGGLERS_MS) await this.#resealSome(sealing);
    return 'idle';
  }

  /** The next step of the whole, by whichever process holds the row. */
  async #lead(): Promise<Next> {
    const { next, id } = await this.#db.transaction().execute(async (trx) => {
      const row = await store.holdAcrossTenants(trx);
      if (!row) return { next: 'wait' as const, id: undefined };
      return { next: await this.#leadHeld(trx, row), id: row.id };
    });
    if (next === 'again' && id !== undefined) this.#say(id);
    return next;
  }

  async #leadHeld(trx: Transaction<Schema>, row: store.RotationRow): Promise<Next> {
    const { vault, files, log } = this.#options;
    if (row.state === 'preparing') return this.#prepare(trx, row);
    // Between the look and the lock another process may have gone a step further.
    vault.sealUnder(row.to_key);
    if (row.state === 'sealing') return this.#seal(trx, row);
    if (!(await this.#options.keyCheck(trx)).equals(vault.keyCheck())) {
      await this.#options.adopt(trx);
      return 'again';
    }
    await store.holdFilesAcrossTenants(trx);
    await files?.promote(row.to_key);
    await store.updateAcrossTenants(trx, row.id, { state: 'done', reason: null });
    log.info({ rotation: row.id }, 'the master key was changed');
    return 'again';
  }

  async #prepare(trx: Transaction<Schema>, row: store.RotationRow): Promise<Next> {
    const without = (await this.#keyrings(trx)).filter(({ known }) => !known?.includes(row.to_key));
    if (without.length > 0) {
      const names = without.map(({ id }) => id).join(', ');
      return this.#wait(trx, row, `Berth process ${names} does not have the new key yet: ${HOW_TO_HAVE_IT}`);
    }
    const counts = await Promise.all(this.#options.resealed.map((kind) => kind.left(trx, keyOf(row))));
    await store.updateAcrossTenants(trx, row.id, { state: 'sealing', reason: null, total: counts.reduce((a, b) => a + b, 0) });
    return 'again';
  }

  async #seal(trx: Transaction<Schema>, row: store.RotationRow): Promise<Next> {
    for (const kind of this.#options.resealed) {
      const sealed = await kind.reseal(trx, keyOf(row), AT_ONCE);
      if (sealed === 0) continue;
      await store.updateAcrossTenants(trx, row.id, { sealedMore: sealed, reason: null });
      return 'again';
    }
    const behind = (await this.#keyrings(trx)).filter(({ sealing }) => sealing !== row.to_key);
    if (behind.length > 0)
      return this.#wait(trx, row, `Berth process ${behind.map(({ id }) => id).join(', ')} still seals under the old key`);
    for (const kind of this.#options.resealed) {
      if ((await kind.left(trx, keyOf(row))) > 0) return this.#wait(trx, row, 'rows that are being changed at this moment');
    }
    await store.updateAcrossTenants(trx, row.id, { state: 'finishing', reason: null });
    return 'again';
  }

  async #wait(trx: Transaction<Schema>, row: store.RotationRow, reason: string): Promise<Next> {
    if (row.reason !== reason) await store.updateAcrossTenants(trx, row.id, { reason });
    return 'wait';
  }

  async #keyrings(trx: Transaction<Schema>) {
    const all = await store.keyringsAcrossTenants(trx, ALIVE_S);
    return this.#options.alone ? all.filter(({ id }) => id === this.#options.processId) : all;
  }

  /** A key that is there and not in use: the files of a rotation that was killed at its very beginning or end, or a new key in the environment. */
  async #takeUp(keyId: string): Promise<boolean> {
    const { vault, files } = this.#options;
    if (!files && keyId === vault.sealingId) return false;
    return this.#db.transaction().execute(async (trx) => {
      await store.holdFilesAcrossTenants(trx);
      const last = await store.latestAcrossTenants(trx);
      if ((last && last.state !== 'done') || (files && files.nextId() !== keyId)) return true;
      if (keyId !== vault.sealingId) return this.#insert(trx, keyId);
      await files?.promote(keyId);
      return false;
    });
  }

  async #insert(trx: Transaction<Schema>, toKey: string): Promise<boolean> {
    const row = { id: newId('vrt'), from_key: this.#options.vault.sealingId, to_key: toKey };
    if (!(await store.beginAcrossTenants(trx, row))) return false;
    this.#options.log.info({ rotation: row.id, from: row.from_key, to: row.to_key }, 'the master key is being changed');
    return true;
  }

  async #resealSome(keyId: string): Promise<void> {
    const key = Buffer.from(keyId, 'hex');
    await this.#db.transaction().execute(async (trx) => {
      for (const kind of this.#options.resealed) await kind.reseal(trx, key, AT_ONCE);
    });
  }

  async #report(): Promise<void> {
    const { vault, processId } = this.#options;
    if (await store.reportAcrossTenants(this.#db, processId, vault.masterKeyIds().toSorted().join(' '), vault.sealingId))
      this.#say(processId);
  }

  #say(id: string): void {
    this.#options.bus.publish('vault', id);
  }

  #whatIsMissing(keyId: string): string {
    return `the master key is being changed to one that this process does not have (id ${keyId}): ${HOW_TO_HAVE_IT}`;
  }
}

const HOW_TO_HAVE_IT =
  'it needs the same DATA_DIR/master.key.next as the process that made it, or to be started with MASTER_KEY and MASTER_KEY_PREVIOUS set as there';

function isSealing(row: store.RotationRow | undefined): row is store.RotationRow {
  return row?.state === 'sealing' || row?.state === 'finishing';
}

function keyOf(row: store.RotationRow): Buffer {
  return Buffer.from(row.to_key, 'hex');
}

function answerOf(row: store.RotationRow | undefined): RotationAnswer {
  const [total, sealed] = [row?.total ?? 0, row?.sealed ?? 0];
  return {
    id: row?.id ?? null,
    state: row?.state ?? 'none',
    reason: row?.reason ?? null,
    from_key: row?.from_key ?? null,
    to_key: row?.to_key ?? null,
    total,
    sealed,
    percent: row?.state === 'done' ? 100 : total === 0 ? 0 : Math.min(99, Math.floor((sealed * 100) / total)),
    started_at: row?.started_at.toISOString() ?? null,
    ended_at: row?.ended_at?.toISOString() ?? null,
  };
}
