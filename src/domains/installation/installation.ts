import { randomBytes, randomInt } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Job } from '../../lib/loop.js';
import { writeOnce } from '../../lib/write-once.js';
import type { Vault } from '../../vault/vault.js';
import * as store from './installation.store.js';

const UIDS_PER_INSTALLATION = 100_000;
const UID_SLOTS = 20_000;
const FIRST_UID = 1_000_000;

/** Who this installation is: the id on every container label, the uid range, the API-key pepper. */
export interface Installation {
  id: string;
  pepper: Buffer;
}

export interface InstallationOptions {
  db: Kysely<Schema>;
  vault: Vault;
  dataDir: string;
}

/**
 * Reads this installation's identity, making it on the first start. Its id lies in the database and in `DATA_DIR/installation.id`; where
 * the two differ (a cloned database, a swapped folder) Berth must not start, since it would delete the other's containers.
 * A database with an id and a folder without one is a second Berth process on another folder, or a restored backup: the folder learns it.
 */
export async function openInstallation({ db, vault, dataDir }: InstallationOptions): Promise<Installation> {
  const existing = await store.readInstallationAcrossTenants(db);
  const row = existing ?? (await store.insertInstallationAcrossTenants(db, newInstallation(vault)));
  vault.verifyKeyCheck(row.key_check);
  // While the key is being changed the one that this process was given may not be the one in use yet.
  vault.sealUnder(row.key_check);
  await matchFolder(dataDir, row.id);
  return { id: row.id, pepper: vault.openInstallation({ name: 'pepper', version: 1 }, row.pepper) };
}

function newInstallation(vault: Vault) {
  const uidBase = FIRST_UID + randomInt(UID_SLOTS) * UIDS_PER_INSTALLATION;
  return {
    id: newId('itl'),
    uid_base: uidBase,
    next_uid: uidBase,
    pepper: vault.sealInstallation({ name: 'pepper', version: 1 }, randomBytes(32)),
    key_check: vault.keyCheck(),
  };
}

async function matchFolder(dataDir: string, id: string): Promise<void> {
  const path = join(dataDir, 'installation.id');
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  if (await writeOnce(path, `${id}\n`)) return;
  const onDisk = (await readFile(path, 'utf8')).trim();
  if (onDisk === id) return;
  throw new Error(
    `DATA_DIR belongs to installation ${onDisk || '(empty file)'}, the database to ${id}. One of the two is a copy: ` +
      `use the matching pair, or remove ${path} if this folder should serve that database from now on.`,
  );
}

/** What is stored to tell the master key from another. */
export async function readKeyCheck(db: Kysely<Schema>): Promise<Buffer> {
  const row = await store.readInstallationAcrossTenants(db);
  if (!row) throw new Error('the installation is gone from its database');
  return row.key_check;
}

/** Makes the vault's current master key the key: what belongs to the installation is sealed anew, and its check stored, both or neither. */
export async function adoptMasterKey(trx: Transaction<Schema>, vault: Vault): Promise<void> {
  const row = await store.readInstallationAcrossTenants(trx);
  if (!row) throw new Error('the installation is gone from its database');
  const pepper = vault.resealInstallation({ name: 'pepper', version: 1 }, row.pepper);
  await store.setSealedAcrossTenants(trx, { pepper, key_check: vault.keyCheck() });
}

/** Says that this process lives, so that others settle what it leaves behind only once it is dead. */
export function heartbeatJob(db: Kysely<Schema>, processId: string): Job {
  return {
    name: 'heartbeat',
    everyMs: 5_000,
    async run() {
      await store.beatAcrossTenants(db, processId);
      await store.forgetProcessesAcrossTenants(db, 86_400);
    },
  };
}

/** Takes this process off the list at a clean stop. */
export async function signOff(db: Kysely<Schema>, processId: string): Promise<void> {
  await store.removeProcessAcrossTenants(db, processId);
}

/**
 * A uid of this installation's range that no deployment has, nor had lately: each is given out again only after all others, since the next
 * range may be another installation's.
 */
export async function takeUid(trx: Transaction<Schema>): Promise<number> {
  for (let tries = 0; tries < UIDS_PER_INSTALLATION; tries++) {
    const uid = await store.takeUidAcrossTenants(trx, UIDS_PER_INSTALLATION);
    if (!(await store.isUidTakenAcrossTenants(trx, uid))) return uid;
  }
  throw new AppError('unavailable', `all ${UIDS_PER_INSTALLATION} places for deployments of this installation are taken`);
}
