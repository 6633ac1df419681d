import { randomBytes } from 'node:crypto';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import { createApp } from '../../src/app.js';
import { readConfig } from '../../src/config.js';
import { openDatabase } from '../../src/db/open.js';
import { findAgent } from '../../src/domains/agents/agents.store.js';
import { openInstallation } from '../../src/domains/installation/installation.js';
import { SERVER_OPTIONS } from '../../src/http/server.js';
import { createLog } from '../../src/lib/log.js';
import { FakeEngine } from '../../src/runtime/fake/engine.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import { Vault } from '../../src/vault/vault.js';

/**
 * Berth's API and, in the same process and on the same database pool, a bare route that does nothing but the query behind
 * `GET agent`. Arguments: a data folder whose database is migrated, and the database's URL where it is on a server.
 */
const [dataDir = '', databaseUrl] = process.argv.slice(2);

async function listen(listener: RequestListener): Promise<number> {
  const server = createServer(SERVER_OPTIONS, listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

async function makeAgent(port: number, adminKey: string): Promise<{ user: string; key: string }> {
  const post = async (path: string, key: string, body: object) => {
    const headers = { 'x-api-key': key, 'content-type': 'application/json' };
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
    return (await answer.json()) as { id: string; api_key: string };
  };
  const user = await post('/users', adminKey, { name: 'bench', tier: 'business' });
  await post(`/users/${user.id}/agents`, user.api_key, { name: 'agent' });
  return { user: user.id, key: user.api_key };
}

// The logger that operators have, at their level; what it prints goes to this process's output.
const log = createLog('info');
const { config } = readConfig({ DATA_DIR: dataDir });
const database = await openDatabase({ databaseUrl, dataDir, log });
const vault = await Vault.open({ masterKey: randomBytes(32) });
const installation = await openInstallation({ db: database.db, vault, dataDir });
const adminKey = randomBytes(32).toString('hex');
const runtime = new FakeRuntime({
  installationId: installation.id,
  engine: new FakeEngine(),
  onStart: () => undefined,
  onStop: () => undefined,
});
const secrets = { openaiApiKey: undefined, anthropicApiKey: undefined };
// Not started: nothing but requests shall run.
const app = createApp({
  config,
  secrets,
  adminKey,
  database,
  vault,
  installation,
  runtime,
  processId: 'bench',
  version: '0.0.0',
  log,
});
const berth = await listen(getRequestListener(app.edge.fetch, { errorHandler: app.edge.refuse, overrideGlobalObjects: false }));
const { user, key } = await makeAgent(berth, adminKey);

const bareApp = new Hono().get('/agent', async (c) => c.json(await findAgent(database.db, user, 'agent')));
const bare = await listen(getRequestListener(bareApp.fetch, { overrideGlobalObjects: false }));
process.stdout.write(`${JSON.stringify({ berth, bare, user, key })}\n`);
