import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Refused } from './client.js';

const AGENTS = ['manager', 'coder'];
const NAMES = 20;
const DEPLOY_LIMIT_MS = 180_000;

const say = (line = ''): void => void process.stdout.write(`${line}\n`);

interface User {
  id: string;
  name: string;
}

interface Agent {
  name: string;
  model: string;
}

interface DeployStatus {
  state: string;
  stage: string | null;
  percent: number;
  reason: string | null;
  attempts: number;
  deployments: { instance: { id: string } | null; stages: { stage: string; ms: number | null }[] }[];
}

/** The demo user of the last time, if its key still opens the door. */
export async function findUser(origin: string, keyFile: string): Promise<{ client: Client; user: User } | undefined> {
  const key = await readFile(keyFile, 'utf8').catch(() => undefined); // the first time there is none
  if (key === undefined) return undefined;
  const client = new Client(origin, key.trim());
  try {
    return { client, user: await client.call<User>('GET', '/users/me') };
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return undefined;
    throw error;
  }
}

/** A user of our own: another's named `demo` is left alone, and the next name taken. Its key is kept, since Berth shows it once. */
export async function makeUser(origin: string, admin: Client, keyFile: string): Promise<{ client: Client; user: User }> {
  for (let n = 1; n <= NAMES; n++) {
    try {
      const made = await admin.call<User & { api_key: string }>('POST', '/users', { name: n === 1 ? 'demo' : `demo-${n}` });
      await writeFile(keyFile, `${made.api_key}\n`, { mode: 0o600 });
      return { client: new Client(origin, made.api_key), user: made };
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 409) throw error;
    }
  }
  throw new Error(`the names demo to demo-${NAMES} are all taken`);
}

/** Two agents on the model that the settings choose now. */
export async function makeAgents(client: Client, model: string): Promise<string[]> {
  const { data: have } = await client.call<{ data: Agent[] }>('GET', '/users/me/agents?limit=100');
  const missing = AGENTS.filter((name) => !have.some((agent) => agent.name === name));
  if (missing.length > 0) await client.call('POST', '/users/me/agents', { agents: missing.map((name) => ({ name, model })) });
  for (const agent of have) {
    if (AGENTS.includes(agent.name) && agent.model !== model)
      await client.call('PUT', `/users/me/agents/${agent.name}`, { model });
  }
  return AGENTS;
}

/** Shows the deploy as it goes, and returns the instance that it came to. */
export async function watchDeploy(client: Client): Promise<string> {
  const untilMs = Date.now() + DEPLOY_LIMIT_MS;
  let shown = '';
  for await (const { event, data } of client.events('GET', '/users/me/deploy/status?watch=true')) {
    if (event === 'error') throw new Error(`the deploy could not be watched: ${String(data['error'])}`);
    const status = data as unknown as DeployStatus;
    const line = lineOf(status);
    if (line !== shown) say(line);
    shown = line;
    if (event === 'settled') return status.deployments[0]?.instance?.id ?? 'none';
    if (Date.now() > untilMs) break;
  }
  throw new Error(`the agents were not ready within ${DEPLOY_LIMIT_MS / 1000} s`);
}

function lineOf({ state, stage, percent, reason, attempts, deployments }: DeployStatus): string {
  const head = `   ${(stage ?? state).padEnd(12)} ${String(percent).padStart(3)} %`;
  if (state === 'failing') return `${head}   attempt ${attempts} failed: ${reason ?? 'no reason is known'}`;
  if (state !== 'ready') return head;
  const stages = (deployments[0]?.stages ?? []).filter(({ ms }) => ms !== null && ms > 0);
  return stages.length === 0 ? head : `${head}   (${stages.map(({ stage: name, ms }) => `${name} ${ms} ms`).join(', ')})`;
}

/** Asks an agent and writes its answer as it comes. */
export async function streamAnswer(client: Client, agent: string, question: string): Promise<void> {
  say(`   > ${question}`);
  process.stdout.write('   ');
  const body = { messages: [{ role: 'user', content: question }] };
  for await (const { event, data } of client.events('POST', `/users/me/agents/${agent}/chat/stream`, body)) {
    if (event === 'text') process.stdout.write(String(data['delta']).replaceAll('\n', '\n   '));
    else if (event === 'waiting') process.stdout.write(waitingLine(data['reason']));
    else if (event === 'tool_call') process.stdout.write(`[${String(data['name'])} ${String(data['arguments'])}]\n   `);
    else if (event === 'error') throw new Error(`${agent} failed: ${String(data['error'])}`);
    else if (event === 'done') return say();
  }
  throw new Error(`the answer of ${agent} was cut off`);
}

function waitingLine(reason: unknown): string {
  return typeof reason === 'string' && reason !== '' ? `(waiting: ${reason}) ` : '(waiting until it is ready) ';
}

/** Deletes the user, and returns once nothing of it is left. */
export async function removeUser(admin: Client, user: User): Promise<void> {
  await admin.call('DELETE', `/users/${user.id}`);
  for (const untilMs = Date.now() + DEPLOY_LIMIT_MS; Date.now() < untilMs; await sleep(100)) {
    try {
      await admin.call('GET', `/users/${user.id}`);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return;
      throw error;
    }
  }
  throw new Error(`user ${user.name} is not gone after ${DEPLOY_LIMIT_MS / 1000} s`);
}
