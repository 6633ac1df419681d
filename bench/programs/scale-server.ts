import { randomBytes } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { getRequestListener } from '@hono/node-server';
import { sql } from 'kysely';
import { type App, createApp } from '../../src/app.js';
import { readConfig } from '../../src/config.js';
import { openDatabase } from '../../src/db/open.js';
import { openInstallation } from '../../src/domains/installation/installation.js';
import { SERVER_OPTIONS } from '../../src/http/server.js';
import { createLog } from '../../src/lib/log.js';
import { FakeEngine } from '../../src/runtime/fake/engine.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';
import { Vault } from '../../src/vault/vault.js';
import { Gateway } from '../../test/link/gateway.js';
import { addCrowd } from '../support/crowd.js';

/**
 * Berth with a runtime in memory, in one process with what measures it. Arguments: what to measure, a data folder whose database is migrated, a
 * number (of deployments, or of users), and the database's URL where it is on a server. Prints what it measured as JSON.
 */
const [what = '', dataDir = '', count = '0', databaseUrl] = process.argv.slice(2);
const n = Number(count);
const log = createLog((process.env['SCALE_LOG'] as 'info' | undefined) ?? 'error');
const { config } = readConfig({ DATA_DIR: dataDir, POOL_SIZE: '0' });
const database = await openDatabase({ databaseUrl, dataDir, log });
const { db, bus } = database;
const vault = await Vault.open({ masterKey: randomBytes(32) });
const installation = await openInstallation({ db, vault, dataDir });
const adminKey = randomBytes(32).toString('hex');
const engine = new FakeEngine();
let linked = 0;
/** What the machine of a benchmark has is not what is measured: nobody waits for room. */
const ENDLESS = { memoryMib: 100_000_000, availableMib: 100_000_000, diskFreeMib: undefined };

function build(processId: string): App {
  const secrets = { openaiApiKey: undefined, anthropicApiKey: undefined };
  const runtime = new FakeRuntime({ installationId: installation.id, engine, onStart: (spec) => runGateway(spec) });
  const parts = { config, secrets, adminKey, database, vault, installation, runtime, processId, version: '0.0.0', log };
  return createApp({ ...parts, host: async () => ENDLESS });
}

/** The gateway of a fake instance: as the real one it dials what it finds, again where the link is lost. */
async function runGateway({ linkDir }: InstanceSpec): Promise<void> {
  for (;;) {
    try {
      const [name] = (await readdir(linkDir)).filter((file) => file.endsWith('.sock'));
      if (name === undefined) throw new Error('there is no socket');
      const gateway = new Gateway((request, response) => {
        const chunks: Buffer[] = [];
        request.on('data', (chunk: Buffer) => chunks.push(chunk));
        request.on('end', () => {
          const { version = 0, agents = [] } = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
          response.end(JSON.stringify({ version, agents: agents.map(({ id }: { id: string }) => id) }));
        });
      });
      await gateway.dial(join(linkDir, name), (await readFile(join(linkDir, 'token'), 'utf8')).trim());
      linked++;
      await new Promise((resolve) => gateway.socket?.once('close', resolve));
      linked--;
    } catch {
      // Whatever it was, it is tried again.
    }
    await sleep(400 + Math.random() * 100);
  }
}

/** Nothing is due, nobody works on anything. */
async function isSettled(): Promise<boolean> {
  const { rows } = await sql<{ n: number }>`
    select count(*)::int as n from deployments where due_at is not null or lease_owner is not null or state not in ('ready', 'asleep')`.execute(
    db,
  );
  return rows[0]?.n === 0;
}

async function until(check: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await check())) await sleep(10);
}

/** The containers of a settled crowd, stopped. */
function addContainers(): void {
  for (let i = 0; i < n; i++) {
    const id = String(i).padStart(26, '0');
    const limits = { memoryMib: 1, cpuMillis: 1, pids: 1 };
    const of = {
      instanceId: `ins_${id}`,
      deploymentId: `dep_${id}`,
      userId: `usr_${id}`,
      volume: `crowd-${i}`,
      name: `crowd-${i}`,
    };
    const rest = { generation: 1, image: '', uid: i, linkDir: '', hostname: '', installationId: installation.id, limits };
    engine.add({ ...of, ...rest });
  }
}

/** Settled deployments, one of which becomes due at a time: from the word to the reconciler until it is settled again. */
async function passes(): Promise<object> {
  await addCrowd(db, 0, n, 'asleep');
  addContainers();
  const app = build('bench');
  const began = performance.now();
  await app.start();
  const folders = () =>
    readdir(config.linkDir).then(
      (all) => all.length,
      () => 0,
    );
  await until(async () => (await folders()) >= n && (await isSettled()));
  const startMs = performance.now() - began;
  const times: number[] = [];
  for (let i = 0; i < 60; i++) {
    const id = `dep_${String(Math.floor((i * n) / 60)).padStart(26, '0')}`;
    const since = performance.now();
    await sql`update deployments set due_at = now(), wish = wish + 1 where id = ${id}`.execute(db);
    bus.publish('deployment', id);
    const isDone = async () =>
      (await sql`select 1 from deployments where id = ${id} and due_at is null`.execute(db)).rows.length > 0;
    while (!(await isDone())) await new Promise((resolve) => setImmediate(resolve));
    times.push(performance.now() - since);
  }
  const before = process.cpuUsage();
  await sleep(10_000);
  const { user, system } = process.cpuUsage(before);
  return { startMs, times, idleCpuMsPerS: (user + system) / 10_000 };
}

/** Deployments that run, and Berth started anew beside them: until every link is up and nothing is left to do. */
async function restart(): Promise<object> {
  await addCrowd(db, 0, n, 'pending');
  const first = build('first');
  await first.start();
  await until(() => isSettled());
  await first.stop();
  await until(() => linked === 0);
  const began = performance.now();
  const before = process.cpuUsage();
  await build('second').start();
  await until(() => linked === n);
  const linkedMs = performance.now() - began;
  await until(() => isSettled());
  const { user, system } = process.cpuUsage(before);
  return { linkedMs, settledMs: performance.now() - began, cpuMs: (user + system) / 1_000 };
}

/** The API beside so many other users. Not started: nothing but requests shall run. */
async function api(): Promise<object> {
  for (let from = 0; from < n; from += 20_000) await addCrowd(db, from, Math.min(n, from + 20_000), 'asleep');
  const server = createServer(SERVER_OPTIONS, getRequestListener(build('bench').edge.fetch));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const call = async (method: string, path: string, key: string, body: object) => {
    const headers = { 'x-api-key': key, 'content-type': 'application/json' };
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1${path}`, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${await answer.text()}`);
    return (await answer.json()) as { id: string; api_key: string };
  };
  await sql`update tiers set requests_per_minute = 100000000, max_agents = 100000`.execute(db);
  const user = await call('POST', '/users', adminKey, { name: 'bench', tier: 'business' });
  await call('POST', `/users/${user.id}/agents`, user.api_key, { name: 'agent' });
  return { port, user: user.id, key: user.api_key, adminKey };
}

const measured = await { passes, restart, api }[what]!();
process.stdout.write(`${JSON.stringify({ measured })}\n`);
if (what !== 'api') process.exit(0);
