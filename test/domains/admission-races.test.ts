import { type Kysely, type KyselyPlugin, sql } from 'kysely';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Schema } from '../../src/db/schema.js';
import { Admission } from '../../src/domains/deployments/admission.js';
import { testDatabase, type TestDatabase } from '../support/database.js';

/** Room for four that take 256 MiB. */
const HOST = { memoryMib: 1_024, availableMib: 1_024, diskFreeMib: undefined };
const LIMITS = { reserveMib: 0, overcommit: 1, startsAtOnce: 100, diskReserveMib: 0 };

/** Two processes decide at the same time who may have room: on Postgres, since an embedded database has one. */
describe('room that is decided on at the same time', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await testDatabase('postgres');
    await sql`insert into users (id, name, tier, data_key) select 'usr_' || n, 'u' || n, 'free', '' from generate_series(1, 20) n`.execute(
      database.db,
    );
  });
  afterEach(() => sql`delete from deployments`.execute(database.db));

  function admission(db: Kysely<Schema> = database.db): Admission {
    return new Admission({ db, bus: database.bus, host: async () => HOST, limits: LIMITS, poolMib: async () => 256 });
  }

  /** So many that are leased to `p`, each of another user. */
  async function add(name: string, count: number, columns: Record<string, string | number> = {}): Promise<void> {
    const rows = Array.from({ length: count }, (_, i) => ({
      id: `dep_${name}${i + 1}`,
      user_id: `usr_${i + 1}`,
      kind: 'dedicated' as const,
      uid: name.charCodeAt(0) * 100 + i,
      volume: `${name}${i}`,
      network: JSON.stringify({ mode: 'none' }),
      due_at: null,
      lease_owner: 'p',
      lease_epoch: '1',
      ...columns,
    }));
    await database.db
      .insertInto('deployments')
      .values(rows as never)
      .execute();
  }

  async function heldMib(): Promise<number> {
    const { rows } = await sql<{ mib: number }>`select coalesce(sum(room_mib), 0)::int as mib from deployments`.execute(
      database.db,
    );
    return rows[0]!.mib;
  }

  test('is never more than there is, and never less', async () => {
    await add('c', 12);
    const processes = [admission(), admission()];
    const asked = Array.from({ length: 12 }, (_, i) =>
      processes[i % 2]!.ask({ deploymentId: `dep_c${i + 1}`, userId: `usr_${i + 1}`, owner: 'p', epoch: '1' }, 256),
    );
    const answers = await Promise.all(asked);
    expect(answers.filter((why) => why === undefined)).toHaveLength(4);
    expect(await heldMib()).toBe(1_024);

    await sql`delete from deployments where id in (select id from deployments where room_mib is not null limit 3)`.execute(
      database.db,
    );
    await Promise.all(Array.from({ length: 6 }, (_, i) => processes[i % 2]!.admit()));
    expect(await heldMib()).toBe(1_024);
  });

  test('is not missing twice where it is given back meanwhile, after whichever statement of a decision that is', async () => {
    let statements = Infinity;
    for (let after = 1; after <= statements; after++) {
      await add('p', 3, { state: 'asleep', rest: 'paused', room_mib: 256 });
      await add('l', 1, { state: 'asleep', rest: 'stopped', room_mib: 256 });
      await add('w', 1, { queued_at: 'now', queue_turn: 1, queue_mib: 256 });
      let seen = 0;
      const between = async () => {
        seen += 1;
        if (seen === after) await sql`update deployments set room_mib = null where id = 'dep_l1'`.execute(database.db);
      };
      await admission(database.db.withPlugin(afterEachStatement(between))).admit();
      statements = seen;
      const { rows } = await sql<{ rest: string }>`select rest from deployments where id like 'dep_p%'`.execute(database.db);
      expect({ after, rests: rows.map(({ rest }) => rest) }).toEqual({ after, rests: ['paused', 'paused', 'paused'] });
      expect(await heldMib()).toBeLessThanOrEqual(1_024);
      await sql`delete from deployments`.execute(database.db);
    }
    // The look whether somebody waits, the lock, what is taken, who waits: at least.
    expect(statements).toBeGreaterThanOrEqual(4);
  });
});

/** Does something else between the statements. */
function afterEachStatement(between: () => Promise<void>): KyselyPlugin {
  return {
    transformQuery: ({ node }) => node,
    async transformResult({ result }) {
      await between();
      return result;
    },
  };
}
