import type { Berth } from './berth.js';
import { Connection, requestText } from './connection.js';
import { Times } from './measure.js';

interface User {
  id: string;
  key: string;
}

/** Milliseconds until the first word of an answer to `content` has come. */
export async function wordOf(berth: Berth, user: User, name: string, began = performance.now()): Promise<number> {
  const connection = await Connection.open({ host: '127.0.0.1', port: berth.port });
  try {
    return await firstOf(connection, user, name, began);
  } finally {
    connection.close();
  }
}

async function firstOf(connection: Connection, user: User, name: string, began: number): Promise<number> {
  let wordMs: number | undefined;
  let text = '';
  const path = `/api/v1/users/${user.id}/agents/${name}/chat/stream`;
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'hello' }] });
  await connection.exchange(requestText('POST', path, { 'x-api-key': user.key }, body), (bytes) => {
    text += bytes.toString('latin1');
    if (wordMs === undefined && text.includes('event: text')) wordMs = performance.now() - began;
  });
  if (wordMs === undefined) throw new Error(`no word came: ${text}`);
  return wordMs;
}

/** Makes an agent in a container of its own, asks it at once, and removes it when the first word has come. */
export async function firstWord(berth: Berth, user: User, name: string, stages: Map<string, Times>) {
  const connection = await Connection.open({ host: '127.0.0.1', port: berth.port });
  const headers = { 'x-api-key': user.key };
  const path = `/api/v1/users/${user.id}/agents`;
  const began = performance.now();
  const made = await connection.exchange(
    requestText('POST', path, headers, JSON.stringify({ name, model: 'demo/echo', isolation: 'dedicated' })),
  );
  const answerMs = performance.now() - began;
  if (made !== 202) throw new Error(`making an agent answered ${made}`);
  const wordMs = await firstOf(connection, user, name, began);
  connection.close();
  await noteStages(berth, user, name, stages);
  await remove(berth, user, name);
  return { answerMs, wordMs };
}

interface Deployment {
  id: string;
  stages: { stage: string; ms: number | null }[];
}

export async function noteStages(berth: Berth, user: User, name: string, stages: Map<string, Times>): Promise<void> {
  const agent = await berth.call('GET', `/api/v1/users/${user.id}/agents/${name}`, user.key);
  const status = (await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key)) as { deployments: Deployment[] };
  for (const { stage, ms } of status.deployments.find(({ id }) => id === agent.deployment_id)?.stages ?? []) {
    if (ms === null) continue;
    const times = stages.get(stage) ?? new Times();
    stages.set(stage, times);
    times.add(ms);
  }
}

async function remove(berth: Berth, user: User, name: string): Promise<void> {
  await berth.call('DELETE', `/api/v1/users/${user.id}/agents/${name}`, user.key);
  await berth.child.until(async () => {
    const status = await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key);
    return status.deployments.length === 0 ? true : undefined;
  });
}
