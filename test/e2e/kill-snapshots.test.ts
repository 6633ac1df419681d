import { createHash, randomBytes } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

const MB = 1024 * 1024;
/** So much that Berth can be caught while it takes it and while it brings it. */
const BIG = randomBytes(24 * MB);

let database: TestDatabase;
let berth: BerthProcess;
let key: string;
let userId: string;

beforeAll(async () => {
  database = await testDatabase('postgres');
  berth = await BerthProcess.prepare({ DATABASE_URL: database.url ?? '', RUNTIME: 'process' });
  await berth.start();
  const user = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'keeper', tier: 'business' });
  [key, userId] = [user.json.api_key, user.json.id];
  await berth.call('POST', '/api/v1/agents', key, { name: 'a' });
  expect((await put('big.bin', BIG)).ok).toBe(true);
}, 480_000);
afterAll(async () => {
  await berth.destroy();
  await database.close();
});

const at = (path: string) => `${berth.url}/api/v1/agents/a/files/${path}`;
const put = (path: string, body: string | Buffer) =>
  fetch(at(path), { method: 'PUT', headers: { 'x-api-key': key, 'content-type': 'application/octet-stream' }, body });
const read = async (path: string) => (await fetch(at(path), { headers: { 'x-api-key': key } })).text();
const get = (rest: string) => berth.call('GET', `/api/v1/agents/a/${rest}`, key);
const post = (rest: string, body: object = {}) => berth.call('POST', `/api/v1/agents/a/${rest}`, key, body);
const files = () => readdir(join(berth.dataDir, 'snapshots', userId)).catch(() => []);

/** As if half a minute later: what a dead process was at is taken up again. */
async function halfAMinuteLater(): Promise<void> {
  for (const table of ['snapshots', 'restores'])
    await sql`update ${sql.table(table)} set held_until = now() where held_until is not null`.execute(database.db);
}

async function isPending(table: 'snapshots' | 'restores', id: string): Promise<boolean> {
  const { rows } = await sql`select 1 from ${sql.table(table)} where id = ${id} and state = 'pending'`.execute(database.db);
  return rows.length === 1;
}

/** Stops Berth as soon as `isAt`, and kills it if `id` is still to be done; answers whether it was caught at that. */
async function killedAt(table: 'snapshots' | 'restores', id: string, isAt: () => Promise<boolean>): Promise<boolean> {
  while (!(await isAt())) if (!(await isPending(table, id))) return false;
  berth.signal('SIGSTOP');
  const isCaught = await isPending(table, id);
  if (isCaught) await berth.kill('SIGKILL');
  else berth.signal('SIGCONT');
  return isCaught;
}

/** The bytes of all files of that name below a folder, wherever they are. */
async function sizesOf(folder: string, name: string): Promise<number[]> {
  const found = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const named = found.filter((entry) => entry.isFile() && entry.name.includes(name));
  return Promise.all(
    named.map((entry) =>
      stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
}

/** While the user's row is held nothing is committed of it: Berth goes as far as it can and waits. */
async function killedAtItsCommit(begin: () => Promise<string>): Promise<string> {
  const id = await begin();
  await database.db.transaction().execute(async (trx) => {
    await sql`select from users where id = ${userId} for no key update`.execute(trx);
    const waits = () => sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
    await until(async () => (await waits().execute(database.db)).rows.length > 0, 'the commit', 60_000);
    await berth.kill('SIGKILL');
  });
  return id;
}

async function ended(rest: string): Promise<Record<string, unknown>> {
  let last: Record<string, unknown> = {};
  await until(
    async () => (last = (await get(rest)).json)['state'] !== 'pending',
    () => `${rest} to end: ${JSON.stringify(last)}`,
    60_000,
  );
  return last;
}

const POINTS = ['at its beginning', 'near its end', 'as it is committed'] as const;

async function begin(rest: string, body: object): Promise<string> {
  const { status, json } = await post(rest, body);
  expect(status, JSON.stringify(json)).toBe(202);
  return json.id;
}

/** Begins it until it was caught at that point; those that came to their end before are none of the test's. */
async function caught(
  table: 'snapshots' | 'restores',
  start: () => Promise<string>,
  isAt: () => Promise<boolean>,
): Promise<string> {
  for (;;) {
    const id = await start();
    if (await killedAt(table, id, isAt)) return id;
    expect(await ended(`${table}/${id}`)).toMatchObject({ state: table === 'snapshots' ? 'ready' : 'done' });
  }
}

test.each(POINTS)(
  'kill -9 while a snapshot is taken, %s: it is taken by the next one, whole, and nothing else is left',
  async (point) => {
    const start = () => begin('snapshots', {});
    const isPart = async (least: number) =>
      (await sizesOf(join(berth.dataDir, 'snapshots'), '.part')).some((size) => size >= least);
    const id =
      point === 'as it is committed'
        ? await killedAtItsCommit(start)
        : await caught('snapshots', start, () => isPart(point === 'near its end' ? 20 * MB : 1));
    await berth.start();
    const { json } = await get(`snapshots/${id}`);
    expect(json).toMatchObject({ state: 'pending', bytes: 0 });
    expect((await get(`snapshots/${id}/export`)).status).toBe(409);
    expect((await post(`snapshots/${id}/restore`)).status).toBe(409);
    await halfAMinuteLater();
    expect(await ended(`snapshots/${id}`)).toMatchObject({ state: 'ready' });
    const exported = await fetch(`${berth.url}/api/v1/agents/a/snapshots/${id}/export`, { headers: { 'x-api-key': key } });
    const digest = createHash('sha256')
      .update(Buffer.from(await exported.arrayBuffer()))
      .digest('base64');
    expect(exported.headers.get('repr-digest')).toBe(`sha-256=:${digest}:`);
    const listed = (await get('snapshots')).json.data as { id: string; state: string }[];
    expect(listed.map(({ state }) => state)).toEqual(listed.map(() => 'ready'));
    expect((await files()).toSorted()).toEqual(listed.map((one) => `${one.id}.snapshot`).toSorted());
  },
  240_000,
);

test.each(POINTS)(
  'kill -9 while a state is put in place, %s: the workspace is as in the snapshot, and nothing is left of it',
  async (point) => {
    await put('kept.txt', `before ${point}`);
    const snapshot = await begin('snapshots', {});
    await ended(`snapshots/${snapshot}`);
    await put('kept.txt', 'after');
    const volumes = join(berth.dataDir, 'process');
    const start = () => begin(`snapshots/${snapshot}/restore`, { keep_current: false });
    const isThere = async (least: number) => (await sizesOf(volumes, 'big.bin')).filter((size) => size >= least).length > 1;
    const id =
      point === 'as it is committed'
        ? await killedAtItsCommit(start)
        : await caught('restores', start, () => isThere(point === 'near its end' ? BIG.length : 1));
    await berth.start();
    expect((await get(`restores/${id}`)).json).toMatchObject({ state: 'pending' });
    await halfAMinuteLater();
    expect(await ended(`restores/${id}`)).toMatchObject({ state: 'done' });
    expect(await read('kept.txt')).toBe(`before ${point}`);
    const told = await post('chat', { messages: [{ role: 'user', content: 'still there?' }] });
    expect(told.json).toMatchObject({ message: 'You said: still there?' });
    await until(async () => String(await sizesOf(volumes, 'big.bin')) === String(BIG.length), 'one state to be left', 60_000);
  },
  240_000,
);
