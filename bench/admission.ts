import { type Kysely, sql } from 'kysely';
import { openDatabase } from '../src/db/open.js';
import type { Schema } from '../src/db/schema.js';
import { Admission } from '../src/domains/deployments/admission.js';
import { Deployments } from '../src/domains/deployments/deployments.js';
import { createLog } from '../src/lib/log.js';
import type { Bench } from './support/bench.js';
import { type DatabaseKind, prepareDatabase } from './support/berth.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';
import { makeFolder } from './support/world.js';

const USERS = 100;
const HOST = { memoryMib: 1_000_000, availableMib: 1_000_000, diskFreeMib: undefined };
const LIMITS = { reserveMib: 0, overcommit: 1, startsAtOnce: 1_000_000, diskReserveMib: 0 };

/** What it costs to be told one's place in the queue, by how many wait; and what asking for room adds to a start where nobody does. */
export const admission: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const dataDir = await makeFolder(scope);
    const database = await openDatabase({ databaseUrl: await prepareDatabase(dataDir, url), dataDir, log: createLog('silent') });
    scope.add(() => database.close());
    const { db, bus } = database;
    const rounds = scaled(300);
    reports.push(
      await askForRoom(
        new Admission({ db, bus, host: async () => HOST, limits: LIMITS, poolMib: async () => 0 }),
        db,
        kind,
        rounds,
      ),
    );
    const deployments = new Deployments({
      db,
      bus,
      image: 'bench',
      takeUid: () => Promise.reject(new Error('none is made here')),
    });
    reports.push(await askForPlace(deployments, db, kind, rounds));
    await scope.close();
  }
  return reports;
};

async function askForRoom(asked: Admission, db: Kysely<Schema>, kind: DatabaseKind, rounds: number): Promise<Report> {
  await sql`insert into users (id, name, tier, data_key) select 'usr_' || n, 'u' || n, 'free', '' from generate_series(0, ${USERS}::int) n`.execute(
    db,
  );
  await sql`insert into deployments (id, user_id, kind, uid, volume, due_at, lease_owner, lease_until, lease_epoch)
    values ('dep_0', 'usr_0', 'shared', 0, 'v0', null, 'p', now() + interval '1 hour', 1)`.execute(db);
  // Five hundred that run.
  await sql`insert into deployments (id, user_id, kind, uid, volume, due_at, state, room_mib, room_at)
    select 'dep_r' || n, 'usr_0', 'dedicated', -n, 'r' || n, null, 'ready', 256, now() from generate_series(1, 500) n`.execute(
    db,
  );
  const lease = { deploymentId: 'dep_0', userId: 'usr_0', owner: 'p', epoch: '1' };
  const [floor, mine] = [new Times(), new Times()];
  for (let round = -20; round < rounds; round++) {
    const began = performance.now();
    await db.transaction().execute((trx) => sql`update deployments set room_mib = 256 where id = 'dep_0'`.execute(trx));
    const floored = performance.now();
    await sql`update deployments set room_mib = null, room_at = null where id = 'dep_0'`.execute(db);
    const asking = performance.now();
    if ((await asked.ask(lease, 256)) !== undefined) throw new Error('there is room, and it was not given');
    const given = performance.now();
    if (round < 0) continue;
    floor.add(floored - began);
    mine.add(given - asking);
  }
  return {
    title: `room on the host is asked for, with 500 that run (${kind})`,
    rows: [rowOf('a transaction that writes the row', floor), rowOf('asking for room', mine), addedRow('added', floor, mine)],
    verdicts: [],
    notes: [],
  };
}

async function askForPlace(deployments: Deployments, db: Kysely<Schema>, kind: DatabaseKind, rounds: number): Promise<Report> {
  const floor = new Times();
  const status = async (userId: string) => deployments.status(userId, 'u');
  await sql`delete from deployments`.execute(db);
  await sql`insert into deployments (id, user_id, kind, uid, volume, due_at, state) values ('dep_0', 'usr_0', 'shared', 0, 'v', null, 'ready')`.execute(
    db,
  );
  const rows = [];
  let last = floor;
  for (const waiting of [0, 100, 1_000, 10_000]) {
    await sql`insert into deployments (id, user_id, kind, uid, volume, due_at, queued_at, queue_turn, queue_mib)
      select 'dep_w' || n, 'usr_' || 1 + n % ${USERS}::int, 'dedicated', n, 'w' || n, null, now(), 1 + n / ${USERS}::int, 256
      from generate_series(1, ${waiting}::int) n on conflict do nothing`.execute(db);
    await sql`insert into users (id, name, tier, data_key) values ('usr_last', 'last', 'free', '') on conflict do nothing`.execute(
      db,
    );
    if (waiting > 0)
      await sql`insert into deployments (id, user_id, kind, uid, volume, due_at, queued_at, queue_turn) values
        ('dep_last', 'usr_last', 'shared', 2000000, 'l', null, now(), 1000000) on conflict do nothing`.execute(db);
    await sql`analyze deployments`.execute(db);
    const times = waiting === 0 ? floor : new Times();
    for (let round = -20; round < rounds; round++) {
      const began = performance.now();
      const { deployments: all } = await status(waiting === 0 ? 'usr_0' : 'usr_last');
      if (round >= 0) times.add(performance.now() - began);
      if (all[0]?.queue?.position !== (waiting === 0 ? undefined : waiting + 1)) throw new Error('it stands at another place');
    }
    rows.push(rowOf(waiting === 0 ? 'the status of one that does not wait' : `of the last one, behind ${waiting} others`, times));
    last = times;
  }
  return {
    title: `deploy status with a place in the queue (${kind})`,
    rows: [...rows, addedRow('added by 10,000 others', floor, last)],
    verdicts: [{ what: 'added by 10,000 others, p50', value: last.p50 - floor.p50, unit: 'ms', atMost: 20 }],
    notes: [],
  };
}
