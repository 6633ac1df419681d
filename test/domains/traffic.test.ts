import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Traffic } from '../../src/domains/traffic/traffic.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';

describe.each(databaseKinds)('what goes out, counted on %s', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database });
  });
  afterAll(() => app.stop());

  async function deployment() {
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    return { user, identity: { userId: user.id, deploymentId, instanceId: 'ins_x' } };
  }

  const rows = async (deploymentId: string) =>
    (
      await sql<{ host: string; port: number; connections: string; refused: string; bytes_up: string; bytes_down: string }>`
        select host, port, connections, refused, bytes_up, bytes_down from egress_traffic
        where deployment_id = ${deploymentId} order by connections desc, host`.execute(app.database.db)
    ).rows;

  test('is added up per host and day, by several processes at once', async () => {
    const { identity } = await deployment();
    const processes = [1, 2, 3].map(() => new Traffic({ db: app.database.db }));
    for (let round = 0; round < 3; round++) {
      for (const traffic of processes) {
        traffic.note(identity, { host: 'a.example', port: 443 }, { connections: 1 });
        traffic.note(identity, { host: 'a.example', port: 443 }, { bytesUp: 5, bytesDown: 1_000_000_000_000 });
        traffic.note(identity, { host: 'a.example', port: 80 }, { refused: 1 });
      }
      await Promise.all(processes.map((traffic) => traffic.flush()));
    }
    const numbers = { connections: '9', refused: '0', bytes_up: '45', bytes_down: '9000000000000' };
    expect(await rows(identity.deploymentId)).toEqual([
      { host: 'a.example', port: 443, ...numbers },
      { host: 'a.example', port: 80, connections: '0', refused: '9', bytes_up: '0', bytes_down: '0' },
    ]);
  });

  test('an instance that asks for ever new hosts fills neither memory nor table, and nothing goes uncounted', async () => {
    const { identity } = await deployment();
    const traffic = new Traffic({ db: app.database.db });
    const known = { host: 'known.example', port: 443 };
    traffic.note(identity, known, { connections: 1 });
    for (let round = 0; round < 4; round++) {
      for (let n = 0; n < 1_000; n++) traffic.note(identity, { host: `h${round}-${n}.example`, port: 443 }, { refused: 1 });
      await traffic.flush();
    }
    // A host that has its row goes on being counted by itself.
    traffic.note(identity, known, { connections: 1 });
    await traffic.flush();
    const found = await rows(identity.deploymentId);
    expect(found.length).toBeLessThanOrEqual(501);
    expect(found.find(({ host }) => host === 'known.example')?.connections).toBe('2');
    expect(found.reduce((sum, row) => sum + Number(row.refused), 0)).toBe(4_000);
    expect(found.find(({ host }) => host === '*')).toMatchObject({ port: 0 });
  });

  test('what cannot be written is kept, and written the next time', async () => {
    const { identity } = await deployment();
    let isBroken = true;
    const db = new Proxy(app.database.db, {
      get: (target, name, receiver) => {
        if (isBroken) throw new Error('no database');
        const value: unknown = Reflect.get(target, name, receiver);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const traffic = new Traffic({ db });
    traffic.note(identity, { host: 'a.example', port: 443 }, { connections: 1, bytesUp: 7 });
    await expect(traffic.flush()).rejects.toThrow();
    traffic.note(identity, { host: 'a.example', port: 443 }, { connections: 1 });
    isBroken = false;
    await traffic.flush();
    await traffic.flush();
    expect(await rows(identity.deploymentId)).toMatchObject([{ host: 'a.example', connections: '2', bytes_up: '7' }]);
  });

  test('of a user who is gone meanwhile nothing is written', async () => {
    const { identity } = await deployment();
    const traffic = new Traffic({ db: app.database.db });
    traffic.note(
      { ...identity, userId: 'usr_gone', deploymentId: 'dep_gone' },
      { host: 'a.example', port: 1 },
      { connections: 1 },
    );
    traffic.note(identity, { host: 'b.example', port: 1 }, { connections: 1 });
    await traffic.flush();
    expect(await rows('dep_gone')).toEqual([]);
    expect(await rows(identity.deploymentId)).toHaveLength(1);
  });

  test('old days go', async () => {
    const { user, identity } = await deployment();
    for (const age of [0, 89, 91]) {
      await sql`insert into egress_traffic (user_id, deployment_id, day, host, port)
        values (${user.id}, ${identity.deploymentId}, (now() at time zone 'utc')::date - ${age}::integer, ${`d${age}`}, 1)`.execute(
        app.database.db,
      );
    }
    await new Traffic({ db: app.database.db }).prune();
    expect((await rows(identity.deploymentId)).map(({ host }) => host)).toEqual(['d0', 'd89']);
  });
});
