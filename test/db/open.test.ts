import { access, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Kysely, sql } from 'kysely';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isUniqueViolation } from '../../src/db/errors.js';
import { migrate } from '../../src/db/migrate.js';
import { openDatabase } from '../../src/db/open.js';
import type { Schema } from '../../src/db/schema.js';
import { createLog } from '../../src/lib/log.js';
import { startChild } from '../support/child.js';
import { databaseKinds, emptyDatabase, makeTestFolder, testDatabase } from '../support/database.js';
import { startTcpProxy } from '../support/tcp-proxy.js';
import { until } from '../support/until.js';

const log = createLog('silent');

describe.each(databaseKinds)('a database on %s', (kind) => {
  test('is fresh and migrated each time, whatever the test before did', { timeout: 60_000 }, async () => {
    const leave: ((db: Kysely<Schema>) => Promise<unknown>)[] = [
      (db) => db.insertInto('deletions').values({ user_digest: 'x' }).execute(),
      (db) => db.deleteFrom('tiers').execute(),
      (db) => db.updateTable('tiers').set({ max_agents: 0 }).execute(),
      (db) => sql`set statement_timeout = 1234`.execute(db),
      (db) => sql`create temporary table tiers (name text)`.execute(db),
      (db) => sql`alter table tiers drop column disk_mib, add column more text`.execute(db),
      () => Promise.resolve(),
    ];
    const seen: unknown[] = [];
    for (const mess of leave) {
      const { db, close } = await testDatabase(kind);
      const tiers = (await db.selectFrom('tiers').selectAll().orderBy('name').execute()).map(
        (tier) => `${tier.name} ${tier.max_agents}`,
      );
      const timeout = await sql`select current_setting('statement_timeout') as timeout`.execute(db);
      const tables =
        await sql`select relname, relnatts from pg_class where relnamespace = 'public'::regnamespace order by 1`.execute(db);
      seen.push([tiers, await db.selectFrom('deletions').selectAll().execute(), timeout.rows, tables.rows]);
      await mess(db);
      await close();
    }
    for (const one of seen) expect(one).toEqual(seen[0]);
    expect((seen[0] as unknown[]).slice(0, 2)).toEqual([['business 200', 'free 3', 'pro 20'], []]);
  });

  test('tells a unique violation by its constraint', async () => {
    const { db } = await testDatabase(kind);
    const insert = () => db.insertInto('deletions').values({ user_digest: 'x' }).execute();
    await insert();
    const error: unknown = await insert().catch((thrown: unknown) => thrown);
    expect(isUniqueViolation(error)).toBe(true);
    expect(isUniqueViolation(error, 'deletions_pkey')).toBe(true);
    expect(isUniqueViolation(error, 'other_key')).toBe(false);
    expect(isUniqueViolation(await sql`select 1/0`.execute(db).catch((thrown: unknown) => thrown))).toBe(false);
    expect(isUniqueViolation(undefined)).toBe(false);
  });

  test('gives the same value types', async () => {
    const { db } = await testDatabase(kind);
    const { rows } = await sql`select 9007199254740993::bigint as big, count(*) as count, now() as at, '\\x00ff'::bytea as bytes,
      '{"a":[1]}'::jsonb as json, null as nothing, true as yes from tiers`.execute(db);
    expect(rows).toEqual([
      {
        big: '9007199254740993',
        count: '3',
        at: expect.any(Date),
        bytes: Buffer.of(0, 255),
        json: { a: [1] },
        nothing: null,
        yes: true,
      },
    ]);
  });

  test('waits for the transaction in progress when it closes', async () => {
    const { db, close } = await testDatabase(kind);
    let finished = false;
    const work = db.transaction().execute(async (trx) => {
      await sql`select pg_sleep(0.1)`.execute(trx);
      await trx.insertInto('deletions').values({ user_digest: 'x' }).execute();
      finished = true;
    });
    await sql`select 1`.execute(db).catch(() => undefined); // the transaction has its connection by now
    await Promise.all([close(), close()]);
    expect(finished).toBe(true);
    await work;
    await expect(sql`select 1`.execute(db)).rejects.toThrow();
  });
});

test(
  'the root of an embedded database used inside a transaction is an error, not a wait without end',
  { timeout: 15_000 },
  async () => {
    const { db } = await testDatabase('pglite');
    const nested = db.transaction().execute(() => db.selectFrom('tiers').select('name').execute());
    await expect(nested).rejects.toThrow(/timeout exceeded/);
    expect(await db.selectFrom('tiers').select('name').execute()).toHaveLength(3);
  },
);

describe('an embedded database in a folder', () => {
  let dataDir: string;
  beforeEach(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'berth-db-'));
  });
  afterEach(() => rm(dataDir, { recursive: true }));

  test('survives kill -9 with every row it acknowledged, and admits one process at a time', { timeout: 120_000 }, async () => {
    await makeTestFolder(join(dataDir, 'pg'));
    for (let round = 1, known = 0; round <= 2; round++) {
      const child = startChild(new URL('./fixtures/writer.ts', import.meta.url), [dataDir, String(known)]);
      await child.hear(/^wrote \d\d$/);
      await expect(openDatabase({ dataDir, log })).rejects.toThrow(/in use by process \d+ .*DATABASE_URL/s);
      await child.kill();
      const wrote = child.lines.length;
      const database = await openDatabase({ dataDir, log });
      const rows = await database.db.selectFrom('deletions').select('user_digest').execute();
      // A commit whose word was lost with the process may be there too.
      expect(rows.length - known - wrote).toBeOneOf([0, 1]);
      for (let n = 1; n <= wrote; n++) expect(rows).toContainEqual({ user_digest: `row ${n}` });
      await database.db.deleteFrom('deletions').execute();
      await database.close();
      expect(await readdir(dataDir)).toEqual(['pg']);
    }
  });

  test(
    'is made on the first start, refused a second time while it is open, and free after it was closed',
    { timeout: 60_000 },
    async () => {
      await mkdir(join(dataDir, 'pg.new-0badc0de')); // as an interrupted first start leaves it
      const first = await openDatabase({ dataDir, log });
      await expect(openDatabase({ dataDir, log })).rejects.toThrow(/in use/);
      expect((await migrate(first.db)).length).toBeGreaterThan(0);
      await first.close();
      expect(await readdir(dataDir)).toEqual(['pg']);
      const second = await openDatabase({ dataDir, log });
      expect(await migrate(second.db)).toEqual([]);
      await second.close();
      expect(await readdir(dataDir)).toEqual(['pg']);
    },
  );

  test('leaves no lock behind when it cannot be opened', async () => {
    await mkdir(join(dataDir, 'pg'));
    await writeFile(join(dataDir, 'pg', 'PG_VERSION'), '9.6\n');
    await expect(openDatabase({ dataDir, log })).rejects.toThrow(/made by Postgres 9.6\) cannot be opened/);
    await expect(access(join(dataDir, 'pg.lock'))).rejects.toThrow(/ENOENT/);
  });
});

describe('a Postgres server', () => {
  test('that cannot be reached is named without its password', async () => {
    const databaseUrl = 'postgres://berth:hunter2@127.0.0.1:1/berth';
    const opening = openDatabase({ databaseUrl, dataDir: '', log, waitMs: 50 });
    await expect(opening).rejects.toThrow('Postgres at 127.0.0.1:1/berth cannot be reached: connect ECONNREFUSED 127.0.0.1:1');
    await expect(opening).rejects.not.toThrow(/hunter2/);
  });

  test.each(['postgres://berth:hunter2@host:port:x/db', 'hunter2', 'mysql://berth:hunter2@host/db'])(
    'with the address %s is refused',
    async (url) => {
      const opening = openDatabase({ databaseUrl: url, dataDir: '', log });
      await expect(opening).rejects.toThrow(/^DATABASE_URL is not of the form postgres:/);
      await expect(opening).rejects.not.toThrow(/hunter2/);
    },
  );

  test('that comes up late is waited for', async () => {
    const { url } = await testDatabase('postgres');
    const proxy = await startTcpProxy(url!);
    await proxy.stop();
    const opening = openDatabase({ databaseUrl: proxy.url, dataDir: '', log });
    await expect(Promise.race([opening, new Promise((resolve) => setTimeout(resolve, 50, 'still waiting'))])).resolves.toBe(
      'still waiting',
    );
    await proxy.start();
    const database = await opening;
    expect(await database.db.selectFrom('tiers').select('name').execute()).toHaveLength(3);
    await database.close();
    await proxy.stop();
  });

  test.each([
    ['under a statement', sql`select pg_sleep(60)`],
    ['between two of a transaction', undefined],
  ])('that is cut off %s fails that work alone, and the process goes on', async (_, statement) => {
    const { db, url } = await testDatabase('postgres');
    const proxy = await startTcpProxy(url!);
    const database = await openDatabase({ databaseUrl: proxy.url, dataDir: '', log });
    const work = database.db.transaction().execute(async (trx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx);
      const running = statement?.execute(trx).catch((error: unknown) => error);
      const state = async () =>
        (await sql<{ state: string }>`select state from pg_stat_activity where pid = ${rows[0]?.pid}`.execute(db)).rows[0]?.state;
      await until(async () => (await state()) === (statement ? 'active' : 'idle in transaction'), 'it to be under way');
      await proxy.stop();
      await running;
      await sql`select 1`.execute(trx);
    });
    await expect(work).rejects.toThrow(/terminated|not queryable/);
    await proxy.start();
    await until(() => database.bus.trusted, 'the bus to be back');
    expect(await database.db.selectFrom('tiers').select('name').execute()).toHaveLength(3);
    await database.close();
    await proxy.stop();
  });

  test('that refuses is not asked again', async () => {
    const { url } = await testDatabase('postgres');
    const wrong = url!.replace(/test_\w+/, 'no_such_database');
    await expect(openDatabase({ databaseUrl: wrong, dataDir: '', log })).rejects.toThrow(
      /refused the connection: .*no_such_database/,
    );
  });

  test('older than 15 is refused', async () => {
    const { db, url } = await emptyDatabase('postgres');
    await sql`create schema old`.execute(db);
    await sql`create function old.current_setting(text) returns text language sql as
      $$ select case $1 when 'server_version_num' then '140012' else '14.12' end $$`.execute(db);
    await sql`alter role current_user in database ${sql.ref(new URL(url!).pathname.slice(1))} set search_path = old, pg_catalog`.execute(
      db,
    );
    await expect(openDatabase({ databaseUrl: url, dataDir: '', log })).rejects.toThrow(
      'Postgres 14.12 is too old: Berth needs 15 or newer',
    );
  });

  test('ends a statement that takes too long, and connections are named', async () => {
    const { db } = await testDatabase('postgres');
    const { rows } =
      await sql`select current_setting('statement_timeout') as limit, current_setting('application_name') as name`.execute(db);
    expect(rows).toEqual([{ limit: '15s', name: 'berth' }]);
  });
});
