import { type Kysely, type Migration, sql } from 'kysely';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { migrations as all } from '../../migrations/index.js';
import { migrate } from '../../src/db/migrate.js';
import { openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { databaseKinds, emptyDatabase } from '../support/database.js';

function migration(...statements: string[]): Migration {
  return {
    async up(db: Kysely<unknown>) {
      for (const statement of statements) await sql.raw(statement).execute(db);
    },
  };
}

const first = { '0001_first': migration('create table first (id int)') };
const second = { ...first, '0002_second': migration('create table second (id int)') };

async function tables(db: Kysely<never>): Promise<string[]> {
  const { rows } = await sql<{
    name: string;
  }>`select tablename as name from pg_tables where schemaname = 'public' order by 1`.execute(db);
  return rows.map((row) => row.name).filter((name) => !name.startsWith('migrations'));
}

describe.each(databaseKinds)('migrations on %s', (kind) => {
  let db: Kysely<never>;
  beforeAll(async () => {
    db = (await emptyDatabase(kind)).db as Kysely<never>;
  });
  beforeEach(async () => {
    await sql`drop schema public cascade`.execute(db);
    await sql`create schema public`.execute(db);
  });

  test('run once, in order, and go on from where they were', async () => {
    expect(await migrate(db, first)).toEqual(['0001_first']);
    expect(await migrate(db, first)).toEqual([]);
    expect(await migrate(db, second)).toEqual(['0002_second']);
    expect(await tables(db)).toEqual(['first', 'second']);
  });

  test('refuse a database that a newer Berth has migrated, and leave it alone', async () => {
    await migrate(db, second);
    const other = { ...first, '0001_other': migration('create table other (id int)') };
    await expect(migrate(db, other)).rejects.toThrow(/newer Berth \(0002_second unknown here\)/);
    expect(await tables(db)).toEqual(['first', 'second']);
  });

  test('change nothing when one of them fails, and can be run again', async () => {
    const broken = { ...second, '0003_broken': migration('create table third (id int)', 'select 1/0') };
    await expect(migrate(db, broken)).rejects.toThrow(/0003_broken failed/);
    await expect(migrate(db, broken)).rejects.toMatchObject({ cause: { code: '22012' } });
    expect(await tables(db)).toEqual([]);
    expect(await migrate(db, second)).toEqual(['0001_first', '0002_second']);
  });

  test('are not cut off by the time limit of statements, which holds again afterwards', async () => {
    const limit = async (on: Kysely<never>) =>
      (await sql<{ limit: string }>`select current_setting('statement_timeout') as limit`.execute(on)).rows;
    let during: unknown;
    await migrate(db, { '0001_look': { up: async (trx) => void (during = await limit(trx as Kysely<never>)) } });
    expect(during).toEqual([{ limit: '0' }]);
    expect(await limit(db)).toEqual([{ limit: kind === 'postgres' ? '15s' : '0' }]);
  });

  test('of Berth itself run, and then have run', async () => {
    expect(await migrate(db)).toEqual(Object.keys(all));
    expect(await migrate(db)).toEqual([]);
    const { rows } = await sql<{ name: string }>`select name from migrations order by name`.execute(db);
    expect(rows.map((row) => row.name)).toEqual(Object.keys(all));
  });
});

test('processes that start together on one Postgres run each migration once', async () => {
  const { url } = await emptyDatabase('postgres');
  const slow = { '0001_slow': migration('create table slow (id int)', 'select pg_sleep(0.3)', 'insert into slow values (1)') };
  const log = createLog('silent');
  const databases = await Promise.all([1, 2, 3, 4].map(() => openDatabase({ databaseUrl: url, dataDir: '', log })));
  const ran = await Promise.all(databases.map(({ db }) => migrate(db, slow)));
  expect(ran.flat()).toEqual(['0001_slow']);
  const { rows } = await sql`select id from slow`.execute(databases[0]!.db);
  expect(rows).toEqual([{ id: 1 }]);
  await Promise.all(databases.map((database) => database.close()));
});
