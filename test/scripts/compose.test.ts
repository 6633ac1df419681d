import { readFileSync } from 'node:fs';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { all, Bench, EventReader, silentLog, untilLogged } from '../runtime/harness.js';
import { testImage } from '../runtime/image.js';
import { REPOSITORY } from './script.js';

const COMPOSE = readFileSync(`${REPOSITORY}/compose.yaml`, 'utf8');
const SOCKET = (process.env['DOCKER_HOST'] ?? 'unix:///var/run/docker.sock').replace('unix://', '');

/** The patterns of the socket proxy in compose.yaml, anchored at both ends as it does. */
function allowList(): Map<string, RegExp> {
  const flags = [...COMPOSE.matchAll(/'-allow([A-Z]+)=([^']+)'/g)];
  return new Map(flags.map(([, method = '', pattern = '']) => [method, new RegExp(`^(?:${pattern})$`)]));
}

const asked: string[] = [];
const refused: string[] = [];
let proxy: Server;
let bench: Bench;
let runtime: DockerRuntime;

/** Does as the socket proxy: looks at method and path, then hands on. */
function startProxy(): Promise<Server> {
  const allowed = allowList();
  const server = createServer((incoming, outgoing) => {
    const { method = '', url = '', headers } = incoming;
    const path = url.split('?', 1)[0] ?? '';
    // No connection is used twice, on either side: a busy test meets the end of an idle one as it is about to use it.
    outgoing.shouldKeepAlive = false;
    asked.push(`${method} ${path}`);
    if (!allowed.get(method)?.test(path)) {
      refused.push(`${method} ${path}`);
      outgoing.writeHead(403).end();
      return;
    }
    const onward = request({ socketPath: SOCKET, method, path: url, headers, agent: false }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
      outgoing.flushHeaders();
      answer.pipe(outgoing);
      outgoing.on('close', () => answer.destroy());
    });
    onward.on('error', () => outgoing.destroy());
    incoming.pipe(onward);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

beforeAll(async () => {
  proxy = await startProxy();
  bench = new Bench(await testImage());
  const { port } = proxy.address() as AddressInfo;
  runtime = new DockerRuntime({ installationId: bench.run, dockerHost: `tcp://127.0.0.1:${port}`, log: silentLog });
});
afterAll(async () => {
  const left = await runtime.list();
  for (const { name } of left.instances) await runtime.remove(name);
  for (const { name } of left.volumes) await runtime.removeVolume(name);
  await runtime.close();
  bench.dispose();
  proxy.closeAllConnections();
  proxy.close();
});

test(
  'the socket proxy of compose.yaml lets through all that Berth asks of the engine',
  { timeout: 60_000, retry: 3 },
  async () => {
    const events = await new EventReader(runtime).untilListening();
    await runtime.check();
    const spec = bench.spec();
    bench.tell(spec, { say: ['stdout', 'hello\n'] });
    await runtime.create(spec);
    await runtime.start(spec.name);
    await untilLogged(runtime, spec.name, 'hello');
    expect(await runtime.stats(spec.name)).toBeDefined();
    await runtime.pause(spec.name);
    await runtime.unpause(spec.name);
    await runtime.update(spec.name, { ...spec.limits, pids: 99 });
    expect((await runtime.list()).instances).toHaveLength(1);
    await runtime.stop(spec.name, 0);
    await events.until(spec.name, 'die');
    expect(await all(runtime.logs(spec.name, { follow: false, tail: 1 }, AbortSignal.timeout(5_000)))).toHaveLength(1);
    await runtime.remove(spec.name);
    await runtime.removeVolume(spec.volume);
    await events.close();
    expect(refused).toEqual([]);
  },
);

test('and each of its patterns is there for a reason', () => {
  const alternatives = [...allowList()].flatMap(([method, pattern]) =>
    splitTop(pattern.source.slice(4, -2)).map((part) => ({ method, part: new RegExp(`^(?:${part})$`) })),
  );
  const unused = alternatives.filter(
    ({ method, part }) => !asked.some((line) => line.startsWith(`${method} `) && part.test(line.slice(method.length + 1))),
  );
  expect(alternatives.length).toBeGreaterThan(6);
  expect(unused).toEqual([]);
});

test('what would make Berth more than a keeper of containers is refused', () => {
  const allowed = allowList();
  const may = (method: string, path: string): boolean => allowed.get(method)?.test(path) ?? false;
  const never = [
    ['POST', '/containers/x/exec'],
    ['POST', '/exec/x/start'],
    ['POST', '/containers/x/attach'],
    ['POST', '/containers/x/rename'],
    ['PUT', '/containers/x/archive'],
    ['GET', '/containers/x/archive'],
    ['POST', '/images/create'],
    ['POST', '/build'],
    ['POST', '/networks/create'],
    ['GET', '/info'],
    ['GET', '/secrets'],
    ['POST', '/swarm/init'],
  ] as const;
  expect(never.filter(([method, path]) => may(method, path))).toEqual([]);
});

test('the link folder is the same on both sides, and the only one that may be mounted', () => {
  expect(COMPOSE).toContain('- /var/lib/berth/link:/var/lib/berth/link');
  expect(COMPOSE).toContain("'-allowbindmountfrom=/var/lib/berth/link'");
  expect(readFileSync(`${REPOSITORY}/Dockerfile`, 'utf8')).toContain('LINK_DIR=/var/lib/berth/link');
});

/** Alternatives of a pattern outside of its brackets. */
function splitTop(pattern: string): string[] {
  let depth = 0;
  return Array.from(pattern)
    .map((char) => {
      if (char === '(') depth += 1;
      if (char === ')') depth -= 1;
      return char === '|' && depth === 0 ? '\n' : char;
    })
    .join('')
    .split('\n');
}
