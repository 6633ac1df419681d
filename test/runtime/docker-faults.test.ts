import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { explain, statusOf } from '../../src/runtime/docker/faults.js';
import type { Runtime } from '../../src/runtime/runtime.js';
import { all, Bench, EventReader, eventually, silentLog } from './harness.js';

const bench = new Bench('any:1');
const DEADLINES = { readMs: 150, changeMs: 150, startMs: 150, queueMs: 150, heartbeatMs: 100 };
const servers: Server[] = [];
const sockets = new Set<Socket>();

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
});
afterAll(() => bench.dispose());

/** An engine that does with each connection what `behave` says. */
async function engine(behave: (socket: Socket, request: string) => void): Promise<DockerRuntime> {
  const path = join(bench.folder, `${servers.length}-${Math.random().toString(36).slice(2)}.sock`);
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (data) => behave(socket, data.toString()));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return new DockerRuntime({ installationId: bench.run, dockerHost: `unix://${path}`, log: silentLog, deadlines: DEADLINES });
}

const head = (status: string, length: number | 'chunked') =>
  `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\n${length === 'chunked' ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`}\r\n\r\n`;

const calls: [string, (runtime: Runtime) => Promise<unknown>][] = [
  ['check', (runtime) => runtime.check()],
  ['create', (runtime) => runtime.create(bench.spec())],
  ['start', (runtime) => runtime.start('n')],
  ['stop', (runtime) => runtime.stop('n', 0)],
  ['pause', (runtime) => runtime.pause('n')],
  ['unpause', (runtime) => runtime.unpause('n')],
  ['remove', (runtime) => runtime.remove('n')],
  ['removeVolume', (runtime) => runtime.removeVolume('v')],
  ['inspect', (runtime) => runtime.inspect('n')],
  ['list', (runtime) => runtime.list()],
  ['stats', (runtime) => runtime.stats('n')],
  ['logs', (runtime) => all(runtime.logs('n', { follow: true, tail: 1 }, new AbortController().signal))],
];

const engines: [string, (socket: Socket) => void][] = [
  ['never answers', () => undefined],
  ['sends headers and cuts the connection', (socket) => socket.end(head('200 OK', 1000))],
  ['sends headers and then nothing', (socket) => socket.write(head('200 OK', 'chunked'))],
  ['closes at once', (socket) => socket.destroy()],
  ['sends garbage', (socket) => socket.end('\0\x01\x02 nonsense\r\n\r\n')],
  ['sends half a header', (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-')],
  ['answers with what is not JSON', (socket) => socket.end(`${head('200 OK', 5)}hello`)],
  ['answers with other JSON', (socket) => socket.end(`${head('200 OK', 13)}{"a":[1,2,3]}`)],
  ['answers null', (socket) => socket.end(`${head('200 OK', 4)}null`)],
  ['is not ready', (socket) => socket.end(`${head('503 Service Unavailable', 19)}{"message":"sorry"}`)],
];

/** How each call ended, all made at once. */
async function outcomes(runtime: Runtime): Promise<Record<string, unknown>> {
  const ends = await Promise.all(
    calls.map(async ([name, call]) => [
      name,
      await call(runtime).then(
        () => 'worked',
        (error: unknown) => (error as { code?: string }).code,
      ),
    ]),
  );
  return Object.fromEntries(ends) as Record<string, unknown>;
}

const allUnavailable = Object.fromEntries(calls.map(([name]) => [name, 'unavailable']));

describe('every call settles in time and says unavailable', () => {
  test.each(engines)('with an engine that %s', async (_, behave) => {
    const runtime = await engine(behave);
    const before = Date.now();
    expect(await outcomes(runtime)).toEqual(allUnavailable);
    expect(Date.now() - before).toBeLessThan(3000);
    await runtime.close();
    await eventually(() => expect(sockets.size).toBe(0));
  });

  test('with no engine', async () => {
    const dockerHost = `unix://${join(bench.folder, 'nothing.sock')}`;
    const runtime = new DockerRuntime({ installationId: bench.run, dockerHost, log: silentLog });
    expect(await outcomes(runtime)).toEqual(allUnavailable);
    await expect(runtime.check()).rejects.toThrow('not there');
    await runtime.close();
  });
});

describe('an engine that hangs after a container was found', () => {
  const container = JSON.stringify({
    Id: 'c1',
    Name: '/n',
    Created: '2025-01-01T00:00:00Z',
    State: { Status: 'running', ExitCode: 0, StartedAt: '2025-01-01T00:00:00Z' },
    Config: {
      Labels: { 'berth.installation': bench.run, 'berth.deployment': 'd', 'berth.instance': 'i', 'berth.generation': '1' },
    },
  });
  const hangsLater = (answerRest: (socket: Socket, request: string) => void) =>
    engine((socket, request) => {
      if (/^GET \/containers\/[^/]+\/json/.test(request)) socket.end(head('200 OK', container.length) + container);
      else answerRest(socket, request);
    });

  test.each([
    ['stop', (runtime: Runtime) => runtime.stop('n', 0)],
    ['pause', (runtime: Runtime) => runtime.pause('n')],
    ['remove', (runtime: Runtime) => runtime.remove('n')],
    ['stats', (runtime: Runtime) => runtime.stats('n')],
  ])('%s settles', async (_name, call) => {
    const runtime = await hangsLater(() => undefined);
    await expect(call(runtime)).rejects.toMatchObject({ code: 'unavailable' });
    await runtime.close();
  });

  test('logs whose body never comes are given up, followed or not', async () => {
    const runtime = await hangsLater((socket, request) => request.includes('/logs') && socket.write(head('200 OK', 'chunked')));
    for (const follow of [false, true]) {
      const lines = all(runtime.logs('n', { follow, tail: 1 }, new AbortController().signal));
      await expect(lines).rejects.toMatchObject({ code: 'unavailable' });
    }
    await runtime.close();
    await eventually(() => expect(sockets.size).toBe(0));
  });

  test('pause is tried again when the freezer gives up', async () => {
    let tries = 0;
    const message = '{"message":"OCI runtime pause failed: unable to freeze"}';
    const runtime = await hangsLater((socket) => {
      if (++tries < 3) socket.end(head('500 Internal Server Error', message.length) + message);
      else socket.end('HTTP/1.1 204 No Content\r\n\r\n');
    });
    await runtime.pause('n');
    expect(tries).toBe(3);
    await runtime.close();
  });

  test('a list is one look at all, however many have ended', async () => {
    const asked: string[] = [];
    const { Labels } = JSON.parse(container).Config as { Labels: Record<string, string> };
    const rows = Array.from({ length: 50 }, (_, n) => ({
      Id: `c${n}`,
      Names: [`/n${n}`],
      State: 'exited',
      Labels,
      Created: 1,
    }));
    const runtime = await engine((socket, request) => {
      const path = request.split(' ')[1] ?? '';
      asked.push(path);
      const body = JSON.stringify(path.includes('/volumes') ? { Volumes: [] } : rows);
      socket.end(head('200 OK', Buffer.byteLength(body)) + body);
    });
    const { instances } = await runtime.list();
    expect(instances).toHaveLength(50);
    expect(instances[0]).toMatchObject({ name: 'n0', state: 'exited' });
    expect(asked).toHaveLength(2);
    await runtime.close();
  });

  test('starts have a limit at a time, and a limit to their wait', async () => {
    const stopped = container.replace('"running"', '"exited"');
    let open = 0;
    const runtime = await engine((socket, request) => {
      if (request.startsWith('GET')) socket.end(head('200 OK', stopped.length) + stopped);
      else open++;
    });
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => runtime.start('n')));
    expect(outcomes.every((outcome) => outcome.status === 'rejected' && outcome.reason.code === 'unavailable')).toBe(true);
    expect(open).toBeLessThan(10);
    await runtime.close();
  });
});

describe('events from an engine that comes and goes', () => {
  const event = (action: string, nano: string, labels: object = {}) =>
    JSON.stringify({
      Type: 'container',
      Action: action,
      Actor: {
        ID: 'c1',
        Attributes: {
          name: 'n',
          'berth.installation': bench.run,
          'berth.deployment': 'd',
          'berth.instance': 'i',
          'berth.generation': '1',
          ...labels,
        },
      },
      time: 1_700_000_100,
      timeNano: Number(nano),
    });
  const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;

  test('parts of lines, several lines, repeats, foreign ones, garbage: each is dealt with', async () => {
    const requests: string[] = [];
    const runtime = await engine((socket, request) => {
      if (request.startsWith('GET /version')) return socket.end(`${head('200 OK', 19)}{"Version":"1.2.3"}`);
      requests.push(request.split('\r\n')[0]!);
      socket.write(head('200 OK', 'chunked'));
      const start = event('start', '1700000100000000001');
      if (requests.length === 1) {
        socket.write(chunk(start.slice(0, 20)));
        socket.write(
          chunk(`${start.slice(20)}\n${event('oom', '1700000100000000300')}\n\n${event('exec_die', '1700000100000000400')}\n`),
        );
        socket.write(chunk(`${event('die', '1700000100000000500', { 'berth.installation': 'other' })}\n`), () =>
          socket.destroy(),
        );
      } else if (requests.length === 2) {
        socket.write(chunk(`${start}\n${event('die', '1700000100000000600')}\n`));
        socket.write(chunk('{"garbage\n'));
      } else socket.write(chunk(`${event('destroy', '1700000100000000900')}\n`));
    });
    const events = new EventReader(runtime);
    await events.until('n', 'remove');
    expect(events.seen.map((seen) => seen.type)).toEqual(['resync', 'start', 'oom', 'resync', 'die', 'resync', 'remove']);
    const since = requests.map((line) => Number(/since=([\d.]+)/.exec(line)?.[1]));
    expect(Math.abs(since[0]! - Date.now() / 1000)).toBeLessThan(30);
    expect(since.slice(1)).toEqual([1_700_000_099, 1_700_000_099]);
    await events.close();
    await runtime.close();
  });

  test('a stream that is dead without a word is found out by asking', async () => {
    let hangs = false;
    let streams = 0;
    let cut = 0;
    const runtime = await engine((socket, request) => {
      if (hangs) return;
      if (request.startsWith('GET /version')) return socket.end(`${head('200 OK', 19)}{"Version":"1.2.3"}`);
      streams++;
      socket.once('close', () => cut++);
      socket.write(head('200 OK', 'chunked'));
    });
    const events = await new EventReader(runtime).untilListening();
    hangs = true;
    await eventually(() => expect(cut).toBe(1));
    hangs = false;
    await events.untilListening(2);
    expect(streams).toBe(2);
    await events.close();
    await runtime.close();
    await eventually(() => expect(sockets.size).toBe(0));
  });
});

describe('an engine’s refusals in plain words', () => {
  const refusal = (statusCode: number, message: string) =>
    Object.assign(new Error('(HTTP code …)'), { statusCode, json: { message } });
  test.each([
    [404, 'No such image: berth-agent:x', 'unprocessable', 'the agent image is missing'],
    [500, 'write /var/lib/docker/x: no space left on device', 'limit_exceeded', 'disk is full'],
    [
      400,
      'invalid mount config for type "bind": bind source path does not exist: /nowhere',
      'unprocessable',
      'link folder is missing',
    ],
    [500, 'OCI runtime create failed: fork: cannot allocate memory', 'limit_exceeded', 'no memory left'],
    [409, 'removal of container x is already in progress', 'conflict', 'already in progress'],
    [503, 'starting', 'unavailable', 'not ready'],
    [500, 'something else', 'upstream_error', 'something else'],
    [400, 'bad parameter', 'unprocessable', 'bad parameter'],
  ])('%i %s', (status, message, code, words) => {
    const error = explain('creating the instance', refusal(status, message));
    expect(error).toMatchObject({ code, message: expect.stringContaining(words) });
    expect(statusOf(error)).toBe(status);
  });

  test('a DOCKER_HOST that cannot be used is refused', () => {
    for (const dockerHost of ['ssh://host', 'nonsense', 'npipe:////./pipe/x']) {
      expect(() => new DockerRuntime({ installationId: 'x', dockerHost, log: silentLog })).toThrow('DOCKER_HOST');
    }
  });
});
