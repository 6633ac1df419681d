import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import http2 from 'node:http2';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import Docker from 'dockerode';
import { containerOptions, volumeOptions } from '../src/runtime/docker/options.js';
import type { InstanceSpec } from '../src/runtime/runtime.js';
import { Berth } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { Connection, requestText } from './support/connection.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';
import { makeFolder, MEMORY_MIB } from './support/world.js';

const IMAGE = process.env['AGENT_IMAGE'] ?? 'berth-agent:latest';

/**
 * From the request for an agent to the first word it streams, against the bare engine: create and start of a container with the
 * very same options, until its gateway has dialled and answered a first call.
 */
export const provision: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const folder = await makeFolder(scope);
    const berth = await Berth.start(scope, { runtime: 'docker', postgres: url, env: { AGENT_IMAGE: IMAGE } });
    const user = await berth.user('bench');
    const [floor, mine, api] = [new Times(), new Times(), new Times()];
    const stages = new Map<string, Times>();
    for (let i = 0; i <= scaled(20); i++) {
      const bareMs = await bareStart(folder, i);
      const made = await firstWord(berth, user, `agent${i}`, stages);
      // The first of both finds cold caches.
      if (i === 0) continue;
      floor.add(bareMs);
      mine.add(made.wordMs);
      api.add(made.answerMs);
    }
    reports.push({
      title: `provision: POST agent to first streamed word (${kind})`,
      rows: [
        rowOf('bare engine: create, start, first call answered', floor),
        rowOf('Berth: agent made (202)', api),
        rowOf('Berth: first word', mine),
        addedRow('added', floor, mine),
        ...[...stages].map(([stage, times]) => rowOf(`of which ${stage}`, times)),
      ],
      verdicts: [{ what: 'first word after the bare engine is ready, p50', value: mine.p50 - floor.p50, unit: 'ms', atMost: 60 }],
      notes: [],
    });
    await scope.close();
  }
  return reports;
};

/** Milliseconds that the engine alone takes. */
async function bareStart(folder: string, index: number): Promise<number> {
  const docker = new Docker();
  const linkDir = join(folder, `link${index}`);
  await mkdir(linkDir, { recursive: true });
  await writeFile(join(linkDir, 'token'), randomBytes(32).toString('base64url'));
  const listener = await listenForLink(join(linkDir, 'bare.sock'));
  const spec = specFor(linkDir);
  const began = performance.now();
  await docker.createVolume(volumeOptions(spec));
  const container = await docker.createContainer(containerOptions(spec));
  await Promise.all([container.start(), listener.answered]);
  const tookMs = performance.now() - began;
  await container.remove({ force: true, v: true });
  await docker.getVolume(spec.volume).remove();
  listener.close();
  await rm(linkDir, { recursive: true, force: true });
  return tookMs;
}

function specFor(linkDir: string): InstanceSpec {
  const id = randomBytes(6).toString('hex');
  return {
    name: `berth-bench-${id}`,
    installationId: `bench-${id}`,
    instanceId: `ins_${id}`,
    deploymentId: `dep_${id}`,
    userId: 'usr_bench',
    generation: 1,
    image: IMAGE,
    uid: 200_000,
    volume: `berth-bench-${id}`,
    linkDir,
    hostname: `dep-${id}`,
    limits: { memoryMib: MEMORY_MIB, cpuMillis: 1_000, pids: 256 },
  };
}

/** A socket that takes one link and asks it one thing. */
async function listenForLink(path: string): Promise<{ answered: Promise<void>; close(): void }> {
  const server = createServer();
  let session: http2.ClientHttp2Session | undefined;
  const answered = new Promise<void>((resolve, reject) => {
    server.on('upgrade', (_request, socket: Socket, head) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\n');
      if (head.length > 0) socket.unshift(head);
      session = http2.connect('http://bench', { createConnection: () => socket });
      session.on('error', reject);
      const call = session.request({ ':path': '/healthz' });
      call.on('error', reject).on('response', () => resolve());
      call.resume();
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await chmod(path, 0o666);
  const close = () => {
    session?.destroy();
    server.close();
  };
  return { answered, close };
}

/** Makes an agent in a container of its own, asks it at once, and removes it when the first word has come. */
async function firstWord(berth: Berth, user: { id: string; key: string }, name: string, stages: Map<string, Times>) {
  const connection = await Connection.open({ host: '127.0.0.1', port: berth.port });
  const headers = { 'x-api-key': user.key };
  const path = `/api/v1/users/${user.id}/agents`;
  const began = performance.now();
  const made = await connection.exchange(
    requestText('POST', path, headers, JSON.stringify({ name, model: 'demo/echo', isolation: 'dedicated' })),
  );
  const answerMs = performance.now() - began;
  if (made !== 202) throw new Error(`making an agent answered ${made}`);
  let wordMs: number | undefined;
  let text = '';
  const chat = requestText(
    'POST',
    `${path}/${name}/chat/stream`,
    headers,
    JSON.stringify({ messages: [{ role: 'user', content: 'hello' }] }),
  );
  await connection.exchange(chat, (bytes) => {
    text += bytes.toString('latin1');
    if (wordMs === undefined && text.includes('event: text')) wordMs = performance.now() - began;
  });
  connection.close();
  if (wordMs === undefined) throw new Error(`no word came: ${text}`);
  await noteStages(berth, user, name, stages);
  await remove(berth, user, name);
  return { answerMs, wordMs };
}

interface Deployment {
  id: string;
  stages: { stage: string; ms: number | null }[];
}

async function noteStages(
  berth: Berth,
  user: { id: string; key: string },
  name: string,
  stages: Map<string, Times>,
): Promise<void> {
  const agent = await berth.call('GET', `/api/v1/users/${user.id}/agents/${name}`, user.key);
  const status = (await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key)) as { deployments: Deployment[] };
  for (const { stage, ms } of status.deployments.find(({ id }) => id === agent.deployment_id)?.stages ?? []) {
    if (ms === null) continue;
    const times = stages.get(stage) ?? new Times();
    stages.set(stage, times);
    times.add(ms);
  }
}

async function remove(berth: Berth, user: { id: string; key: string }, name: string): Promise<void> {
  await berth.call('DELETE', `/api/v1/users/${user.id}/agents/${name}`, user.key);
  await berth.child.until(async () => {
    const status = await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key);
    return status.deployments.length === 0 ? true : undefined;
  });
}
