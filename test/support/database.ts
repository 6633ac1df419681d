import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import { afterAll, inject } from 'vitest';
import { makeDataFolder, PGLITE_OPTIONS, writeTemplate } from '../../src/db/data-folder.js';
import { migrate } from '../../src/db/migrate.js';
import { type Database, fromPGlite, openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { clusterUrl } from './cluster.js';
import { DatabasePool } from './database-pool.js';

/** Run a suite on each: `describe.each(databaseKinds)('… on %s', (kind) => …)`. */
export const databaseKinds = ['pglite', 'postgres'] as const;
export type DatabaseKind = (typeof databaseKinds)[number];

export interface TestDatabase extends Database {
  /** Postgres only: so that a test can connect a second time. */
  url: string | undefined;
}

const log = createLog('silent');
const open = new Set<TestDatabase>();
afterAll(async () => {
  await Promise.all([...open].map((database) => database.close()));
  await Promise.all([lites.close(), postgreses.close()]);
});

/** A fresh, migrated database of one's own. `close` destroys it; what a file leaves open is closed after its last test. */
export async function testDatabase(kind: DatabaseKind): Promise<TestDatabase> {
  return track(kind === 'pglite' ? await pooledLite() : await pooledPostgres());
}

/** The same, without a single table. */
export async function emptyDatabase(kind: DatabaseKind): Promise<TestDatabase> {
  return track(kind === 'pglite' ? await emptyLite() : await emptyPostgres());
}

function track(database: TestDatabase): TestDatabase {
  const tracked = {
    ...database,
    async close() {
      open.delete(tracked);
      await database.close();
    },
  };
  open.add(tracked);
  return tracked;
}

// ---- Postgres: a copy of a migrated template database -----------------------------------------------------------------------

interface PostgresDatabase {
  name: string;
  url: string;
}

const postgreses = new DatabasePool<PostgresDatabase>({
  make: () => createPostgres('berth_template'),
  alone: ({ url }, work) =>
    connected(url, async (client) => {
      // With its time limit it waits until they are gone: processes that a test has killed leave connections behind.
      await client.query(`select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`);
      return work({ query: (text, values) => client.query(text, values), exec: (text) => client.query(text) });
    }),
  destroy: dropPostgres,
});

async function pooledPostgres(): Promise<TestDatabase> {
  const made = await postgreses.take();
  await giveNewName(made);
  return openPostgres(made, () => postgreses.giveBack(made));
}

/** So that a process that a test has left behind, frozen or asleep, does not come back to the next test's database. */
async function giveNewName(database: PostgresDatabase): Promise<void> {
  const name = newName();
  await execute(databaseOf(database.url, 'postgres'), `alter database ${database.name} rename to ${name}`);
  Object.assign(database, { name, url: databaseOf(database.url, name) });
}

async function emptyPostgres(): Promise<TestDatabase> {
  const made = await createPostgres('template0');
  return openPostgres(made, () => dropPostgres(made));
}

async function openPostgres({ url }: PostgresDatabase, leave: () => Promise<void>): Promise<TestDatabase> {
  const database = await openDatabase({ databaseUrl: url, dataDir: '', log });
  let closed: Promise<void> | undefined;
  return { ...database, url, close: () => (closed ??= database.close().then(leave)) };
}

async function createPostgres(template: string): Promise<PostgresDatabase> {
  const admin = await clusterUrl(inject('runDir'), prepareTemplate);
  const name = newName();
  await execute(admin, `create database ${name} template ${template} strategy file_copy`);
  return { name, url: databaseOf(admin, name) };
}

function newName(): string {
  return `test_${randomBytes(6).toString('hex')}`;
}

async function dropPostgres({ name }: PostgresDatabase): Promise<void> {
  await execute(await clusterUrl(inject('runDir'), prepareTemplate), `drop database if exists ${name} with (force)`);
}

async function prepareTemplate(admin: string): Promise<void> {
  await execute(admin, 'drop database if exists berth_template');
  await execute(admin, 'create database berth_template template template0');
  const database = await openDatabase({ databaseUrl: databaseOf(admin, 'berth_template'), dataDir: '', log });
  await migrate(database.db);
  await database.close();
}

function databaseOf(admin: string, name: string): string {
  return admin.replace(/(:\/\/[^/]*\/)[^?]*/, `$1${name}`);
}

async function execute(url: string, statement: string): Promise<void> {
  await connected(url, (client) => client.query(statement));
}

async function connected<R>(url: string, work: (client: pg.Client) => Promise<R>): Promise<R> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

// ---- PGlite: in memory, from a tar that is made once and kept until the migrations change ------------------------------------

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const CACHE = join(ROOT, 'node_modules', '.cache', 'berth');
let template: Promise<Blob> | undefined;
let initial: Promise<Blob> | undefined;

const lites = new DatabasePool<PGlite>({
  make: async () => liteFrom(await migratedTemplate()),
  alone: (lite, work) => work(lite),
  destroy: (lite) => lite.close(),
});

async function pooledLite(): Promise<TestDatabase> {
  const lite = await lites.take();
  return { ...fromPGlite(lite, log, () => lites.giveBack(lite)), url: undefined };
}

async function emptyLite(): Promise<TestDatabase> {
  const lite = await liteFrom(await initialTemplate());
  return { ...fromPGlite(lite, log, () => lite.close()), url: undefined };
}

function liteFrom(tar: Blob): Promise<PGlite> {
  return PGlite.create({ ...PGLITE_OPTIONS, loadDataDir: tar });
}

/** Makes `folder` an empty database folder, in one second where `initdb` takes five. */
export async function makeTestFolder(folder: string): Promise<void> {
  await initialTemplate();
  await makeDataFolder(folder, log, await cachedName('initdb', '.tar.gz', []));
}

function initialTemplate(): Promise<Blob> {
  return (initial ??= cached('initdb', '.tar.gz', [], writeTemplate));
}

function migratedTemplate(): Promise<Blob> {
  return (template ??= makeMigratedTemplate());
}

async function makeMigratedTemplate(): Promise<Blob> {
  const names = await readdir(join(ROOT, 'migrations'));
  const sources = ['src/db/migrate.ts', ...names.sort().map((name) => `migrations/${name}`)];
  return cached('migrated', '.tar', sources, async (file) => {
    const lite = await liteFrom(await initialTemplate());
    const database = fromPGlite(lite, log, () => lite.close());
    await migrate(database.db);
    await writeFile(file, Buffer.from(await (await lite.dumpDataDir('none')).arrayBuffer()));
    await database.close();
  });
}

/** The file made by `make`, kept under the digest of PGlite's version and of the sources it depends on. */
async function cached(name: string, ending: string, sources: string[], make: (file: string) => Promise<void>): Promise<Blob> {
  const file = await cachedName(name, ending, sources);
  const found = await readFile(file).catch(() => undefined);
  if (found) return new Blob([found]);
  await mkdir(CACHE, { recursive: true });
  const made = `${file}.${randomBytes(4).toString('hex')}`;
  await make(made);
  await rename(made, file);
  const old = (await readdir(CACHE)).filter(
    (other) => other.startsWith(`${name}-`) && join(CACHE, other) !== file && other.endsWith(ending),
  );
  await Promise.all(old.map((other) => rm(join(CACHE, other), { force: true })));
  return new Blob([await readFile(file)]);
}

async function cachedName(name: string, ending: string, sources: string[]): Promise<string> {
  return join(CACHE, `${name}-${await digest(sources)}${ending}`);
}

async function digest(sources: string[]): Promise<string> {
  const hash = createHash('sha256').update(await readFile(join(dirname(resolvePGlite()), '..', 'package.json')));
  for (const source of sources) hash.update(source).update(await readFile(join(ROOT, source)));
  return hash.digest('hex').slice(0, 16);
}

function resolvePGlite(): string {
  return createRequire(import.meta.url).resolve('@electric-sql/pglite');
}
