import { sql } from 'kysely';
import { afterEach, describe, expect, test } from 'vitest';
import { DeploymentWork } from '../../src/domains/deployments/work.js';
import { startApp, type TestApp, type TestAppOptions } from '../support/app.js';
import { databaseKinds, testDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let apps: TestApp[] = [];
afterEach(async () => {
  for (const app of apps.toReversed()) await app.stop();
  apps = [];
});

async function start(options: TestAppOptions = {}): Promise<TestApp> {
  const app = await startApp(options);
  apps.push(app);
  return app;
}

describe('leases', () => {
  test('a lease of this process that nobody works under is not kept alive', async () => {
    const app = await start({ app: { processId: 'pself' } });
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    await app.ready(user);
    // As after a claim whose answer was lost, or a release that the database refused.
    await sql`update deployments set lease_owner = 'pself', lease_until = now() + interval '4 seconds', lease_epoch = lease_epoch + 1, due_at = now()
      where id = ${deploymentId}`.execute(app.database.db);
    const due = async () =>
      (await app.database.db.selectFrom('deployments').select('due_at').where('id', '=', deploymentId).executeTakeFirstOrThrow())
        .due_at;
    await until(async () => (await due()) === null, 'the deployment to be taken up again', 8_000);
  });

  test.each(databaseKinds)('no more is claimed than was asked for, on %s', async (kind) => {
    const { db, bus, close } = await testDatabase(kind);
    await sql`insert into users (id, name, tier, data_key) values ('usr_a', 'a', 'free', '')`.execute(db);
    await sql`insert into deployments (id, user_id, kind, uid, volume) select 'dep_' || n, 'usr_a', 'dedicated', n, 'v' || n from generate_series(1, 40) n`.execute(
      db,
    );
    const work = new DeploymentWork({ db, bus, processId: 'p1' });
    for (const analyzed of [false, true]) {
      if (analyzed) await sql`analyze deployments`.execute(db);
      expect(await work.claim(3)).toHaveLength(3);
    }
    await close();
  });

  test('a deployment that is to go is not called anything else by a pass that has not seen it', async () => {
    const { db, bus } = await testDatabase('pglite');
    await sql`insert into users (id, name, tier, data_key) values ('usr_a', 'a', 'free', '')`.execute(db);
    await sql`insert into deployments (id, user_id, kind, uid, volume) values ('dep_1', 'usr_a', 'dedicated', 1, 'v')`.execute(
      db,
    );
    const work = new DeploymentWork({ db, bus, processId: 'p1' });
    const [lease] = await work.claim(1);
    if (!lease) throw new Error('nothing was claimed');
    await sql`update deployments set desired = 'deleted', state = 'deleting', wish = wish + 1`.execute(db);
    await work.enter(lease, { state: 'ready', stage: 'ready', stages: [] });
    expect((await db.selectFrom('deployments').select('state').executeTakeFirstOrThrow()).state).toBe('deleting');
  });
});
