import { join } from 'node:path';
import { mkdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { PGlite } from '@electric-sql/pglite';
import { createPgConfig } from '@electric-sql/pglite/node-postgres';
import { Kysely, sql } from 'kysely';
import pg from 'pg';
import type { Bus } from '../events/bus.js';
import { LocalBus } from '../events/local-bus.js';
import { PostgresBus } from '../events/postgres-bus.js';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { isConnectionLoss } from './errors.js';
import { makeDataFolder, PGLITE_OPTIONS } from './data-folder.js';
import { notify, openLine } from './line.js';
import { lockFolder, type LockOptions } from './lock.js';
import { preparedPool } from './prepared.js';
import type { Schema } from './schema.js';
import { TellingDialect } from './telling-dialect.js';

/** The open database, and the bus that says what changed in it. */
export interface Database {
  kind: 'pglite' | 'postgres';
  db: Kysely<Schema>;
  bus: Bus;
  /**
   * Waits for the statements in progress, then closes; the folder of an embedded database is free afterwards. Safe to call
   * twice.
   */
  close(): Promise<void>;
}

export interface OpenOptions {
  /** A Postgres server. Without it an embedded PGlite keeps its files in `dataDir/pg`. */
  databaseUrl?: string | undefined;
  dataDir: string;
  log: Log;
  /** How long to wait for a Postgres server that does not answer yet. */
  waitMs?: number;
  lock?: LockOptions;
}

/** Opens the database without migrating it; see `migrate`. */
export async function openDatabase(options: OpenOptions): Promise<Database> {
  return options.databaseUrl ? openPostgres(options.databaseUrl, options) : openFolder(options);
}

// ---- embedded ------------------------------------------------------------------------------------------------------------

async function openFolder({ dataDir, log, lock: lockOptions }: OpenOptions): Promise<Database> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const lock = await lockFolder(join(dataDir, 'pg.lock'), log, lockOptions);
  try {
    const folder = join(dataDir, 'pg');
    await makeDataFolder(folder, log);
    const lite = await openLite(folder);
    return fromPGlite(lite, log, () => lite.close().finally(() => lock.release()));
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function openLite(folder: string): Promise<PGlite> {
  try {
    return await PGlite.create(folder, PGLITE_OPTIONS);
  } catch (error) {
    const version = await readFile(join(folder, 'PG_VERSION'), 'utf8').catch(() => 'no version');
    throw new Error(
      `the embedded database in ${folder} (made by Postgres ${version.trim()}) cannot be opened: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** A database on a PGlite that is open already; `end` is called when nothing uses it any more. */
export function fromPGlite(lite: PGlite, log: Log, end: () => Promise<void>): Database {
  // One connection and never a second: sessions of PGlite are one and the same, so a second would see uncommitted rows. Waiting
  // for it inside one's own transaction (the root `db` used where `trx` was meant) ends in an error after five seconds instead
  // of never.
  const config: unknown = Object.assign(createPgConfig(lite), { max: 1, idleTimeoutMillis: 0, connectionTimeoutMillis: 5_000 });
  const pool = watched(new pg.Pool(config as pg.PoolConfig), log);
  const bus = new LocalBus(log);
  const tell = (userId: string) => bus.publish('event', userId);
  const db = new Kysely<Schema>({ dialect: new TellingDialect({ pool: preparedPool(pool) }, tell) });
  const close = once(() => db.destroy().finally(end));
  return { kind: 'pglite', db, bus, close };
}

// ---- server --------------------------------------------------------------------------------------------------------------

const OLDEST_SERVER = 150_000;

async function openPostgres(databaseUrl: string, { log, waitMs = 30_000 }: OpenOptions): Promise<Database> {
  const where = addressOf(databaseUrl);
  const pool = watched(new pg.Pool({ ...sessionOf(databaseUrl), max: 10, statement_timeout: 15_000 }), log);
  let bus: PostgresBus | undefined;
  const tell = (userId: string) => bus?.publish('event', userId);
  const db = new Kysely<Schema>({ dialect: new TellingDialect({ pool: preparedPool(pool) }, tell) });
  const close = once(async () => {
    await bus?.close();
    await db.destroy();
  });
  try {
    await waitForServer(db, where, waitMs, log);
    await refuseOldServer(db);
    bus = new PostgresBus({
      connect: (events) => openLine(sessionOf(databaseUrl, 'berth bus'), events),
      sendAside: (texts) => notify(pool, texts),
      log,
    });
    await bus.open();
    return { kind: 'postgres', db, bus, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function sessionOf(databaseUrl: string, name = 'berth'): pg.ClientConfig {
  return {
    connectionString: databaseUrl,
    connectionTimeoutMillis: 5_000,
    idle_in_transaction_session_timeout: 60_000,
    application_name: name,
    keepAlive: true,
  };
}

async function waitForServer(db: Kysely<Schema>, where: string, waitMs: number, log: Log): Promise<void> {
  const until = performance.now() + waitMs;
  for (let said = false; ;) {
    try {
      await sql`select 1`.execute(db);
      return;
    } catch (error) {
      const lasting = !isConnectionLoss(error);
      if (lasting || performance.now() >= until) {
        throw new Error(`Postgres at ${where} ${lasting ? 'refused the connection' : 'cannot be reached'}: ${reasonOf(error)}`, {
          cause: error,
        });
      }
      if (!said) log.warn({ postgres: where, waitMs }, `waiting for Postgres: ${reasonOf(error)}`);
      said = true;
      await sleep(Math.min(500, waitMs));
    }
  }
}

/** Host, port and database of the URL: never the password, not even of one that cannot be read. */
function addressOf(databaseUrl: string): string {
  try {
    if (!/^postgres(ql)?:\/\//.test(databaseUrl)) throw new Error('another scheme');
    const client = new pg.Client({ connectionString: databaseUrl });
    return `${client.host}:${client.port}/${client.database ?? ''}`;
  } catch {
    throw new Error('DATABASE_URL is not of the form postgres://user:password@host:port/database');
  }
}

function reasonOf(error: unknown): string {
  return error instanceof AggregateError ? error.errors.map(messageOf).join('; ') : messageOf(error);
}

async function refuseOldServer(db: Kysely<Schema>): Promise<void> {
  const { rows } = await sql<{ version: number; shown: string }>`
    select current_setting('server_version_num')::int as version, current_setting('server_version') as shown`.execute(db);
  const [server] = rows;
  if (server && server.version >= OLDEST_SERVER) return;
  throw new Error(`Postgres ${server?.shown} is too old: Berth needs 15 or newer`);
}

// An idle connection that breaks is replaced by the pool; without a listener its error would end the process.
function watched(pool: pg.Pool, log: Log): pg.Pool {
  return pool.on('error', (error) => log.warn({ err: error }, `lost an idle database connection: ${messageOf(error)}`));
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => (done ??= work());
}
