#!/usr/bin/env node
// Berth's command line for operators: a client of the running Berth's own API, with the admin key.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { auditCommand, USAGE as AUDIT_USAGE } from './audit/commands.mjs';

const USAGE = `Usage: npm run berth -- vault rotate    changes the master key, and shows how far it is
       npm run berth -- vault status    shows how far it is, or how the last change ended
${AUDIT_USAGE}

It calls the Berth that runs: BERTH_URL, else HOST and PORT (http://127.0.0.1:8080), with the admin key in ADMIN_API_KEY, else in
DATA_DIR/admin.key (DATA_DIR is ./data where it is not set).`;

const POLL_MS = 300;
const { env } = process;

/** Said without a trace: whoever runs this can do something about it. */
class Refusal extends Error {}

function origin() {
  if (env.BERTH_URL) return env.BERTH_URL.replace(/\/+$/, '');
  const host = env.HOST && !['0.0.0.0', '::'].includes(env.HOST) ? env.HOST : '127.0.0.1';
  return `http://${host.includes(':') ? `[${host}]` : host}:${env.PORT || 8080}`;
}

function adminKey() {
  if (env.ADMIN_API_KEY) return env.ADMIN_API_KEY;
  const path = join(env.DATA_DIR || './data', 'admin.key');
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new Refusal(`no admin key: set ADMIN_API_KEY, or DATA_DIR to the folder with admin.key (${path}: ${error.code})`);
  }
}

async function call(method, path) {
  let answer;
  try {
    answer = await fetch(`${origin()}/api/v1${path}`, { method, headers: { 'x-api-key': adminKey() } });
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(`no Berth answers at ${origin()} (${error.cause?.code ?? error.message}); set BERTH_URL or PORT`);
  }
  const text = await answer.text();
  if (answer.headers.get('content-type')?.includes('ndjson'))
    return text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const body = JSON.parse(text);
  if (!answer.ok) throw new Refusal(`${body.error ?? answer.status}`);
  return body;
}

function said({ state, reason, sealed, total, percent, from_key, to_key, ended_at }) {
  if (state === 'none') return 'The master key has not been changed yet.';
  if (state === 'done')
    return `The master key was changed (${from_key} -> ${to_key}) at ${ended_at}: ${sealed} things sealed anew.`;
  return `${state}: ${sealed} of ${total} sealed anew (${percent} %)${reason ? `; waits: ${reason}` : ''}`;
}

async function watch(rotation) {
  let last;
  for (let now = rotation; ; now = await call('GET', '/vault/rotations/current')) {
    const text = said(now);
    if (text !== last) process.stdout.write(`${text}\n`);
    last = text;
    if (now.state === 'done' || now.state === 'none') return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function main([noun, verb, ...rest]) {
  if (noun === 'audit') {
    if (!(await auditCommand([verb, ...rest], { call, Refusal }))) process.exitCode = 1;
    return;
  }
  if (noun !== 'vault' || rest.length > 0) throw new Refusal(USAGE);
  if (verb === 'status') process.stdout.write(`${said(await call('GET', '/vault/rotations/current'))}\n`);
  else if (verb === 'rotate') await watch(await call('POST', '/vault/rotations'));
  else throw new Refusal(USAGE);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Refusal)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
