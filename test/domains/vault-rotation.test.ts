import { randomBytes } from 'node:crypto';
import { copyFile, link, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Kysely, type KyselyPlugin, sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Schema } from '../../src/db/schema.js';
import { KeptAnswers } from '../../src/domains/idempotency/kept-answers.js';
import { adoptMasterKey, readKeyCheck } from '../../src/domains/installation/installation.js';
import { DataKeys } from '../../src/domains/users/data-keys.js';
import { VaultRotation } from '../../src/domains/vault-rotation/vault-rotation.js';
import { LocalBus } from '../../src/events/local-bus.js';
import { createLog } from '../../src/lib/log.js';
import { KeyFiles, parseMasterKey } from '../../src/vault/key-files.js';
import { Vault } from '../../src/vault/vault.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const log = createLog('silent');

/** Every secret, and the pepper, read with this one master key and no other. */
async function readWith(db: Kysely<Schema>, masterKey: Buffer): Promise<Record<string, string>> {
  const vault = await Vault.open({ masterKey });
  expect(vault.verifyKeyCheck(await readKeyCheck(db))).toBe('current');
  const { pepper } = await db.selectFrom('installation').select('pepper').executeTakeFirstOrThrow();
  expect(vault.openInstallation({ name: 'pepper', version: 1 }, pepper)).toHaveLength(32);
  const rows = await db
    .selectFrom('secrets as s')
    .innerJoin('users as u', 'u.id', 's.user_id')
    .select(['u.data_key', 's.user_id', 's.scope', 's.name', 's.version', 's.value'])
    .execute();
  return Object.fromEntries(
    rows.map((row) => [`${row.user_id} ${row.name}`, vault.open(row.data_key, row, row.value).toString('utf8')]),
  );
}

const keyIn = async (dataDir: string, name = 'master.key') => parseMasterKey(await readFile(join(dataDir, name), 'utf8'), name);

describe.each(databaseKinds)('a change of the master key on %s', (kind) => {
  let app: TestApp;
  const expected: Record<string, string> = {};
  const users: { id: string; key: string }[] = [];
  beforeAll(async () => {
    app = await startApp({ database: kind });
    for (let n = 0; n < 8; n++) {
      const user = await app.user();
      users.push(user);
      await put(user, { ONE: `one of ${n}`, TWO: randomBytes(20).toString('hex') });
    }
  });
  afterAll(() => app.stop());

  async function put(user: { id: string; key: string }, values: Record<string, string>): Promise<void> {
    const answer = await app.call('PUT', `/api/v1/users/${user.id}/secrets`, { key: user.key, body: values });
    expect(answer.status, answer.text).toBe(200);
    for (const [name, value] of Object.entries(values)) expected[`${user.id} ${name}`] = value;
  }
  const current = async () => (await app.get('/api/v1/vault/rotations/current', app.adminKey)).json;
  const done = (id: string) =>
    until(
      async () => {
        const now = await current();
        return now.id === id && now.state === 'done';
      },
      'the rotation to end',
      20_000,
    );

  test('goes on under writes, loses none, and leaves nothing under the old key', async () => {
    expect(await current()).toMatchObject({ id: null, state: 'none', percent: 0 });
    const create = { name: 'kept-answer', tier: 'pro' };
    const first = await app.post('/api/v1/users', app.adminKey, create, { 'idempotency-key': 'before' });
    const old = await keyIn(app.dataDir);
    let stop = false;
    const writers = users.map(async (user, n) => {
      for (let round = 0; !stop; round++)
        await put(user, { ONE: `one of ${n} in ${round}`, [`MORE${round % 5}`]: `more ${round}` });
    });
    const made = (async () => {
      while (!stop) users.push(await app.user());
    })();
    const begun = await app.post('/api/v1/vault/rotations', app.adminKey, undefined);
    expect(begun.status, begun.text).toBe(202);
    await done(begun.json.id);
    stop = true;
    await Promise.all([...writers, made]);
    const now = await keyIn(app.dataDir);
    expect(now.equals(old)).toBe(false);
    expect((await keyIn(app.dataDir, 'master.key.previous')).equals(old)).toBe(true);
    expect((await readdir(app.dataDir)).filter((name) => name.startsWith('master')).toSorted()).toEqual([
      'master.key',
      'master.key.previous',
    ]);
    expect((await stat(join(app.dataDir, 'master.key'))).mode & 0o777).toBe(0o600);
    expect(await readWith(app.database.db, now)).toEqual(expected);
    expect(await current()).toMatchObject({ state: 'done', percent: 100, reason: null });
    expect((await current()).sealed).toBeGreaterThanOrEqual(9);
    const again = await app.post('/api/v1/users', app.adminKey, create, { 'idempotency-key': 'before' });
    expect([again.status, again.text, again.headers.get('idempotency-replayed')]).toEqual([201, first.text, 'true']);
    expect((await app.get('/api/v1/users/me', users[0]!.key)).status).toBe(200);
  });

  test('is for admins, one at a time, and again', async () => {
    expect((await app.post('/api/v1/vault/rotations', users[0]!.key, undefined)).status).toBe(403);
    const both = await Promise.all([1, 2].map(() => app.post('/api/v1/vault/rotations', app.adminKey, undefined)));
    expect(both.map(({ status }) => status).toSorted()).toEqual([202, 409]);
    await done(both.find(({ status }) => status === 202)!.json.id);
    expect(await readWith(app.database.db, await keyIn(app.dataDir))).toEqual(expected);
  });

  test('a data key that was altered stays as it is, and holds up no other', async () => {
    const broken = await app.user();
    await sql`update users set data_key = set_byte(data_key, 60, get_byte(data_key, 60) # 1) where id = ${broken.id}`.execute(
      app.database.db,
    );
    const begun = await app.post('/api/v1/vault/rotations', app.adminKey, undefined);
    await done(begun.json.id);
    expect(await readWith(app.database.db, await keyIn(app.dataDir))).toEqual(expected);
    await sql`update users set data_key = (select data_key from users where id = ${users[0]!.id}) where id = ${broken.id}`.execute(
      app.database.db,
    );
  });
});

describe('a change of the master key that is killed', () => {
  let app: TestApp;
  let dataDir: string;
  let expected: Record<string, string>;
  beforeAll(async () => {
    // Its own loop must not help.
    app = await startApp({ database: 'postgres' });
    for (let n = 0; n < 3; n++) {
      const user = await app.user();
      await app.call('PUT', '/api/v1/secrets', { key: user.key, body: { A: `a${n}`, B: `b${n}` } });
    }
    await app.post('/api/v1/users', app.adminKey, { name: 'answered' }, { 'idempotency-key': 'x' });
    await app.leave();
    await sql`delete from processes`.execute(app.database.db);
    dataDir = await mkdtemp(join(tmpdir(), 'bk-'));
    await copyFile(join(app.dataDir, 'master.key'), join(dataDir, 'master.key'));
    expected = await readWith(app.database.db, await keyIn(dataDir));
  });
  afterAll(async () => {
    await app.stop();
    await rm(dataDir, { recursive: true });
  });

  class Killed extends Error {}

  /** A process: started with what is on disk and in the database, and killed by its n-th query, or where its files are moved. */
  async function start({ queries = Infinity, files = new KeyFiles(dataDir) }: { queries?: number; files?: KeyFiles }) {
    let left = queries;
    const killer: KyselyPlugin = {
      transformQuery({ node }) {
        if (--left < 0) throw new Killed();
        return node;
      },
      transformResult: async ({ result }) => result,
    };
    const db = app.database.db.withPlugin(killer);
    const masterKey = await keyIn(dataDir);
    const vault = await Vault.open({ masterKey, read: () => files.readAll() });
    vault.sealUnder(await readKeyCheck(app.database.db));
    const rotation = new VaultRotation({
      db,
      bus: new LocalBus(log),
      vault,
      log,
      processId: 'me',
      files,
      alone: true,
      resealed: [new DataKeys({ vault, log }), new KeptAnswers({ vault })],
      adopt: (trx) => adoptMasterKey(trx, vault),
      keyCheck: readKeyCheck,
    });
    await rotation.join();
    return { rotation, vault, asked: () => queries - left };
  }

  const never = new AbortController().signal;
  const goOn = async () => (await start({})).rotation.run(never);
  const state = async () => (await (await start({})).rotation.current()).state;

  test('at any query: the next start goes on, and every secret is there', async () => {
    for (let queries = 1; ; queries++) {
      const before = await keyIn(dataDir);
      try {
        const { rotation } = await start({ queries });
        await rotation.begin();
        await rotation.run(never);
        expect(queries).toBeGreaterThan(25);
        break;
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
      }
      // What a process that starts now would read: all of it, with what keys are there.
      const { vault, rotation } = await start({});
      const rows = await app.database.db
        .selectFrom('secrets as s')
        .innerJoin('users as u', 'u.id', 's.user_id')
        .select(['u.data_key', 's.scope', 's.name', 's.version', 's.value'])
        .execute();
      for (const row of rows) vault.open(row.data_key, row, row.value);
      await rotation.run(never);
      expect(['none', 'done']).toContain(await state());
      const after = await keyIn(dataDir);
      expect((await readdir(dataDir)).filter((name) => name.endsWith('next'))).toEqual([]);
      expect(await readWith(app.database.db, after), `killed at query ${queries}`).toEqual(expected);
      if (!after.equals(before)) expect((await keyIn(dataDir, 'master.key.previous')).equals(before)).toBe(true);
    }
  }, 60_000);

  test.each<[string, (files: KeyFiles) => Partial<KeyFiles>]>([
    ['after the file was made', (files) => ({ makeNext: async () => (await files.makeNext(), dies()) })],
    ['before the files change places', () => ({ promote: async () => dies() })],
    [
      'while they change places',
      () => ({
        promote: async () => {
          await rm(join(dataDir, 'master.key.previous'), { force: true });
          await link(join(dataDir, 'master.key'), join(dataDir, 'master.key.previous'));
          dies();
        },
      }),
    ],
    ['after they changed places', (files) => ({ promote: async (id) => (await files.promote(id), dies()) })],
  ])('%s: the next start goes on by itself', async (_, dying) => {
    const files = new KeyFiles(dataDir);
    const before = await keyIn(dataDir);
    const { rotation } = await start({ files: Object.assign(Object.create(files) as KeyFiles, bound(files), dying(files)) });
    await expect(rotation.begin().then(() => rotation.run(never))).rejects.toThrow(Killed);
    await goOn();
    expect(await state()).toBe('done');
    expect((await keyIn(dataDir)).equals(before)).toBe(false);
    expect((await keyIn(dataDir, 'master.key.previous')).equals(before)).toBe(true);
    expect((await readdir(dataDir)).toSorted()).toEqual(['master.key', 'master.key.previous']);
    expect(await readWith(app.database.db, await keyIn(dataDir))).toEqual(expected);
  });

  function dies(): never {
    throw new Killed();
  }
  /** Private fields are the instance's own. */
  function bound(files: KeyFiles): Partial<KeyFiles> {
    return {
      readAll: () => files.readAll(),
      nextId: () => files.nextId(),
      makeNext: () => files.makeNext(),
      promote: (id) => files.promote(id),
      tidy: () => files.tidy(),
    };
  }

  test('leaves no copy of a key aside, once it is old', async () => {
    await writeFile(join(dataDir, 'master.key.next.0123456789ab'), 'half a key', { mode: 0o600 });
    await new KeyFiles(dataDir).tidy();
    expect(await readdir(dataDir)).toContain('master.key.next.0123456789ab');
    await rm(join(dataDir, 'master.key.next.0123456789ab'));
  });
});

describe('several processes', () => {
  test('on one folder: all go over to the new key, and serve meanwhile', async () => {
    const app = await startApp({ database: 'postgres' });
    const other = await startApp({ beside: app });
    try {
      const user = await app.user();
      const begun = await app.post('/api/v1/vault/rotations', app.adminKey, undefined);
      expect(begun.status, begun.text).toBe(202);
      const made: { id: string; key: string }[] = [];
      await until(async () => {
        made.push(await other.user(), await app.user());
        return (await other.get('/api/v1/vault/rotations/current', app.adminKey)).json.state === 'done';
      }, 'the rotation to end');
      for (const one of [user, ...made]) {
        for (const at of [app, other]) {
          const answer = await at.call('PUT', '/api/v1/secrets', { key: one.key, body: { A: `for ${one.id} at ${at.url}` } });
          expect(answer.status, answer.text).toBe(200);
        }
      }
      const values = await readWith(app.database.db, await keyIn(app.dataDir));
      expect(values[`${user.id} A`]).toBe(`for ${user.id} at ${other.url}`);
    } finally {
      await other.stop();
      await app.stop();
    }
  });

  test('one of which has not got the key are waited for, by name; nothing is sealed before', async () => {
    const app = await startApp({ database: 'postgres' });
    try {
      const user = await app.user();
      await sql`insert into processes (id) values ('p-elsewhere')`.execute(app.database.db);
      const begun = (await app.post('/api/v1/vault/rotations', app.adminKey, undefined)).json;
      const current = async () => (await app.get('/api/v1/vault/rotations/current', app.adminKey)).json;
      await until(async () => (await current()).reason !== null, 'it to say what it waits for');
      expect(await current()).toMatchObject({
        state: 'preparing',
        sealed: 0,
        reason: expect.stringMatching(/p-elsewhere does not have the new key.*MASTER_KEY/),
      });
      const sealedUnder = async () =>
        (
          await app.database.db.selectFrom('users').select('data_key').where('id', '=', user.id).executeTakeFirstOrThrow()
        ).data_key.toString('hex', 1, 9);
      expect(await sealedUnder()).toBe(begun.from_key);
      await sql`insert into vault_keyrings (process_id, known, sealing) values ('p-elsewhere', ${`${begun.from_key} ${begun.to_key}`}, ${begun.from_key})`.execute(
        app.database.db,
      );
      await until(
        async () => /p-elsewhere still seals under the old key/.test((await current()).reason ?? ''),
        'it to wait for the other to go over',
      );
      expect(await sealedUnder()).toBe(begun.to_key);
      await sql`delete from processes where id = 'p-elsewhere'`.execute(app.database.db);
      await until(async () => (await current()).state === 'done', 'it to end once that process is gone');
    } finally {
      await app.stop();
    }
  });
});

test('a key from the environment: the route says what to do, and a start with both keys does it', async () => {
  const app = await startApp({ app: { keyFiles: undefined } });
  try {
    const user = await app.user();
    await app.call('PUT', '/api/v1/secrets', { key: user.key, body: { A: 'of the environment' } });
    const refused = await app.post('/api/v1/vault/rotations', app.adminKey, undefined);
    expect([refused.status, refused.json.error]).toEqual([
      409,
      expect.stringMatching(/MASTER_KEY set to the new key.*MASTER_KEY_PREVIOUS/),
    ]);
    const next = randomBytes(32);
    const vault = await Vault.open({ masterKey: Buffer.from(next), previous: app.masterKey });
    vault.sealUnder(await readKeyCheck(app.database.db));
    const { db, bus } = app.database;
    const rotation = new VaultRotation({
      db,
      bus,
      vault,
      log,
      processId: 'restarted',
      files: undefined,
      alone: true,
      resealed: [new DataKeys({ vault, log }), new KeptAnswers({ vault })],
      adopt: (trx) => adoptMasterKey(trx, vault),
      keyCheck: readKeyCheck,
    });
    await app.leave();
    await rotation.join();
    await rotation.run(new AbortController().signal);
    expect(await rotation.current()).toMatchObject({ state: 'done', percent: 100 });
    expect(await readWith(db, next)).toEqual({ [`${user.id} A`]: 'of the environment' });
    await rotation.run(new AbortController().signal);
  } finally {
    await app.stop();
  }
});
