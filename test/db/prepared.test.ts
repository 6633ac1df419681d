import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import { databaseKinds, emptyDatabase } from '../support/database.js';

describe.each(databaseKinds)('prepared statements on %s', (kind) => {
  async function makeThings() {
    const database = await emptyDatabase(kind);
    await sql`create table things (id integer primary key, name text not null)`.execute(database.db);
    await sql`insert into things values (1, 'one'), (2, 'two')`.execute(database.db);
    return database;
  }

  test('are parsed once, however often they are asked', async () => {
    const { db } = await makeThings();
    const count = () =>
      db.connection().execute(async (one) => {
        for (const id of [1, 2, 1]) await sql`select name from things where id = ${id}`.execute(one);
        return sql<{
          n: number;
        }>`select count(*)::int as n from pg_prepared_statements where statement like 'select name from things%'`.execute(one);
      });
    expect((await count()).rows).toEqual([{ n: 1 }]);
  });

  test('outlive a change of their table', async () => {
    const { db } = await makeThings();
    await db.connection().execute(async (one) => {
      const all = () => sql`select * from things where id = ${1}`.execute(one);
      await all();
      await all();
      await sql`alter table things add column more text`.execute(one);
      expect((await all()).rows).toEqual([{ id: 1, name: 'one', more: null }]);
      expect((await all()).rows).toEqual([{ id: 1, name: 'one', more: null }]);
    });
  });

  test('outlive being thrown away by somebody else', async () => {
    const { db } = await makeThings();
    await db.connection().execute(async (one) => {
      const name = () => sql`select name from things where id = ${2}`.execute(one);
      await name();
      await sql`deallocate all`.execute(one);
      expect((await name()).rows).toEqual([{ name: 'two' }]);
    });
  });

  test('in a transaction that a change of their table has ended, the first error is told', async () => {
    const { db } = await makeThings();
    await db.connection().execute(async (one) => {
      const all = (on: typeof one) => sql`select * from things where id = ${1}`.execute(on);
      await all(one);
      await sql`alter table things add column more text`.execute(one);
      await expect(one.transaction().execute((trx) => all(trx))).rejects.toThrow(/cached plan must not change result type/);
      expect((await all(one)).rows).toEqual([{ id: 1, name: 'one', more: null }]);
    });
  });
});
