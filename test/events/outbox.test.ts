import { type Kysely, type Transaction, sql } from 'kysely';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Schema } from '../../src/db/schema.js';
import type { Bus } from '../../src/events/bus.js';
import { appendEvent, appendEventsAcrossTenants, changeSaying, type NewEvent, readEvents } from '../../src/events/outbox.js';
import { isId, newId } from '../../src/lib/ids.js';
import { databaseKinds, testDatabase } from '../support/database.js';

function event(n: number): NewEvent {
  return { type: 'agent.created', actor: 'user:key_1', requestId: `req_${n}`, payload: { n, nested: { list: [1, 'two'] } } };
}

async function newUser(db: Kysely<Schema>): Promise<string> {
  const id = newId('usr');
  await db
    .insertInto('users')
    .values({ id, name: id, tier: 'free', data_key: Buffer.alloc(1) })
    .execute();
  return id;
}

const append = (db: Kysely<Schema>, userId: string, n = 0) =>
  db.transaction().execute((trx) => appendEvent(trx, userId, event(n)));

describe.each(databaseKinds)('the outbox on %s', (kind) => {
  let db: Kysely<Schema>;
  let bus: Bus;
  beforeAll(async () => {
    ({ db, bus } = await testDatabase(kind));
  });

  test('keeps what happened, numbered per user', async () => {
    const [a, b] = [await newUser(db), await newUser(db)];
    expect([await append(db, a, 1), await append(db, b, 2), await append(db, a, 3)]).toEqual([1, 1, 2]);
    const [first, second] = await readEvents(db, a, 0, 10);
    expect(first).toEqual({ seq: 1, id: expect.any(String), at: expect.any(Date), ...event(1) });
    expect(second).toMatchObject({ seq: 2, ...event(3) });
    expect(isId('evt', first!.id)).toBe(true);
    expect(first!.at.getTime()).toBeLessThanOrEqual(second!.at.getTime());
  });

  test('is read from any number on, a page at a time', async () => {
    const user = await newUser(db);
    for (let n = 1; n <= 5; n++) await append(db, user, n);
    const page = async (after: number, limit: number) => (await readEvents(db, user, after, limit)).map(({ seq }) => seq);
    expect([await page(0, 2), await page(2, 2), await page(4, 2), await page(5, 2)]).toEqual([[1, 2], [3, 4], [5], []]);
    expect(await readEvents(db, await newUser(db), 0, 10)).toEqual([]);
  });

  test('takes one together with the change that it says, and none where nothing is found to change', async () => {
    const told: string[] = [];
    const end = bus.subscribe('event', (id) => told.push(id));
    const user = await newUser(db);
    const rename = (id: string) =>
      changeSaying(db, user, event(2), (qb) =>
        qb
          .updateTable('users')
          .set({ name: `${user}-2` })
          .where('id', '=', id)
          .returning('id'),
      );
    await append(db, user, 1);
    expect([await rename('usr_none'), await rename(user), await rename('usr_none')]).toEqual([false, true, false]);
    await append(db, user, 3);
    end();
    const written = await readEvents(db, user, 0, 10);
    expect(written.map(({ seq, payload }) => [seq, payload['n']])).toEqual([1, 2, 3].map((n) => [n, n]));
    expect(written[1]).toEqual({ seq: 2, id: expect.any(String), at: expect.any(Date), ...event(2) });
    expect(told.filter((id) => id === user)).toHaveLength(3);
    const names = await db.selectFrom('users').select('name').where('id', '=', user).execute();
    expect(names).toEqual([{ name: `${user}-2` }]);
  });

  test('takes those of many users at once, each in its order', async () => {
    const [a, b] = [await newUser(db), await newUser(db)];
    await append(db, a, 0);
    const given = [a, b, a, a].map((userId, n) => ({ userId, ...event(n + 1) }));
    await db.transaction().execute((trx) => appendEventsAcrossTenants(trx, given));
    await append(db, b, 9);
    const of = async (user: string) => (await readEvents(db, user, 0, 10)).map(({ seq, payload }) => [seq, payload['n']]);
    expect([await of(a), await of(b)]).toEqual([
      [
        [1, 0],
        [2, 1],
        [3, 3],
        [4, 4],
      ],
      [
        [1, 2],
        [2, 9],
      ],
    ]);
    expect((await readEvents(db, b, 0, 1))[0]).toEqual({
      seq: 1,
      id: expect.stringMatching(/^evt_/),
      at: expect.any(Date),
      ...event(2),
    });
  });

  test('forgets what was rolled back, number and all', async () => {
    const user = await newUser(db);
    const failing = db.transaction().execute(async (trx) => {
      await appendEvent(trx, user, event(1));
      throw new Error('changed my mind');
    });
    await expect(failing).rejects.toThrow('changed my mind');
    expect(await append(db, user, 2)).toBe(1);
  });

  test('has neither gaps nor late numbers under 50 transactions at once, a third of which fail', async () => {
    const user = await newUser(db);
    const work = async (trx: Transaction<Schema>, n: number) => {
      await sql`select pg_sleep(${(n % 5) / 1000})`.execute(trx);
      const seq = await appendEvent(trx, user, event(n));
      if (n % 3 === 0) throw new Error('rolled back');
      return seq;
    };
    let done = false;
    const pages: number[][] = [];
    const all = Promise.allSettled(Array.from({ length: 50 }, (_, n) => db.transaction().execute((trx) => work(trx, n))));
    void all.then(() => (done = true));
    // A reader that goes on from the last number it saw must meet every number, in order.
    for (let after = 0; !done; after = pages.flat().at(-1) ?? 0)
      pages.push((await readEvents(db, user, after, 100)).map(({ seq }) => seq));
    const won = (await all).flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    pages.push((await readEvents(db, user, pages.flat().at(-1) ?? 0, 100)).map(({ seq }) => seq));
    const expected = Array.from({ length: 33 }, (_, i) => i + 1);
    expect(won.sort((x, y) => x - y)).toEqual(expected);
    expect(pages.flat()).toEqual(expected);
  });
});
