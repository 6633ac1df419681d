import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase } from '../support/database.js';
import { openRequest } from '../support/http-stream.js';
import { until } from '../support/until.js';
import { instanceOf, shell, type Tenant, tenant } from './inside.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;

describe('files in a container', () => {
  let app: TestApp;
  let eve: Tenant;
  beforeAll(async () => {
    app = await startApp({ runtime: 'docker', database: 'postgres' });
    eve = await tenant(app);
  });
  afterAll(() => app.stop());

  const open = (method: string, path: string, headers: Record<string, string | number> = {}) =>
    openRequest(app.url, method, `/api/v1/users/me/agents/a${path}`, { 'x-api-key': eve.key, ...headers });
  const send = async (method: string, path: string, body = '') => {
    const { request, answer } = open(method, path);
    request.end(body);
    const { status, bytes } = await answer;
    return { status, text: bytes.toString() };
  };

  test('what the API writes the shell reads at once, and the other way round', async () => {
    expect((await send('PUT', '/files/in/from%20api.txt', 'hello shell')).status).toBe(201);
    expect(await shell(app, eve, 'cat "in/from api.txt"; mkdir -p out; printf "hello api" > out/x; ln -s x out/y')).toContain(
      'hello shell',
    );
    expect(await send('GET', '/files/out/x')).toEqual({ status: 200, text: 'hello api' });
    const { data } = JSON.parse((await send('GET', '/files?path=out')).text) as { data: { path: string; kind: string }[] };
    expect(data.map(({ path, kind }) => [path, kind])).toEqual([
      ['out/x', 'file'],
      ['out/y', 'link'],
    ]);
  });

  test('what the agent plants leads nowhere, and nothing waits for it', async () => {
    await shell(
      app,
      eve,
      `ln -s /etc etc; ln -s /etc/passwd passwd; ln -s /run/berth/token token; ln -s ../../.. up; ln -s /proc/self/environ environ
       mkfifo pipe; mkdir -p sub; ln -s / sub/root; ln -sf /data/.berth own; ln -s loop loop; python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('sock')"`,
    );
    const paths = [
      'etc/passwd',
      'passwd',
      'token',
      'up/homes',
      'environ',
      'pipe',
      'sub/root/etc/passwd',
      'own/agents',
      'loop',
      'sock',
    ];
    for (const path of paths) {
      const read = await send('GET', `/files/${path}`);
      expect([path, read.status >= 400 && read.status < 500, read.text.includes('root:')]).toEqual([path, true, false]);
    }
    for (const path of ['etc/x', 'up/x', 'sub/root/tmp/x', 'own/x']) {
      const written = await send('PUT', `/files/${path}`, 'x');
      expect([path, written.status >= 400 && written.status < 500]).toEqual([path, true]);
    }
    // A link of that name is taken away, never followed.
    expect((await send('DELETE', '/files/etc?recursive=true')).status).toBeLessThan(500);
    expect(await shell(app, eve, 'ls /etc/passwd; ls /data/.berth >/dev/null && echo kept')).toContain('kept');
  });

  test('a container that is killed in the midst of an upload: 503, nothing of it is there, and the next one goes through', async () => {
    await send('PUT', '/files/kept.bin', 'as it was');
    const { container } = await instanceOf(app, eve);
    const { request, answer } = open('PUT', '/files/kept.bin', { 'Content-Length': 200 * MIB });
    request.on('error', () => {});
    const piece = Buffer.alloc(MIB);
    for (let i = 0; i < 20; i++) if (!request.write(piece)) await new Promise((resolve) => request.once('drain', resolve));
    await run('docker', ['kill', container]);
    const { status, headers, bytes } = await answer;
    expect([status, Number(headers['retry-after']) > 0, bytes.toString()]).toEqual([
      503,
      true,
      expect.stringContaining('confirmed'),
    ]);
    request.destroy();
    expect(await send('GET', '/files/kept.bin')).toEqual({ status: 200, text: 'as it was' });
    await until(async () => JSON.parse((await send('GET', '/disk')).text).bytes < 20 * MIB, 'what came to be deleted');
    expect((await send('PUT', '/files/kept.bin', 'again')).status).toBe(200);
  });

  test('a container that is killed in the midst of a download: a broken connection, never a short file', async () => {
    await shell(app, eve, 'head -c 100000000 /dev/zero > big');
    const { container } = await instanceOf(app, eve);
    const { request, answer } = open('GET', '/files/big');
    request.on('response', (response) => {
      response.pause();
      void run('docker', ['kill', container]).then(() => response.resume());
    });
    request.end();
    const { status, broken, bytes } = await answer;
    expect([status, broken, bytes.length < 100_000_000]).toEqual([200, true, true]);
  });
});

test('256 MiB in, and out again, grow Berth by less than 32 MB', async () => {
  const database = await testDatabase('postgres');
  const berth = await BerthProcess.prepare({
    DATABASE_URL: database.url ?? '',
    AGENT_IMAGE: process.env.AGENT_IMAGE ?? 'berth-agent:latest',
  });
  try {
    await berth.start();
    const user = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'bulky', tier: 'pro' });
    const key = user.json.api_key;
    await berth.call('POST', '/api/v1/users/me/agents', key, { name: 'a' });
    const open = (method: string, path: string) =>
      openRequest(berth.url, method, `/api/v1/users/me/agents/a/files/${path}`, { 'x-api-key': key });
    const small = open('PUT', 'small');
    small.request.end('x');
    expect((await small.answer).status).toBe(201);
    const watch = new Resident(berth.pid ?? 0);
    const { request, answer } = open('PUT', 'large');
    const piece = Buffer.alloc(64 * 1024, 'x');
    for (let i = 0; i < 256 * 16; i++) if (!request.write(piece)) await new Promise((resolve) => request.once('drain', resolve));
    request.end();
    expect((await answer).status).toBe(201);
    let received = 0;
    const reading = open('GET', 'large');
    reading.request.once('response', (response) => response.on('data', (chunk: Buffer) => (received += chunk.length)));
    reading.request.end();
    expect(await reading.answer).toMatchObject({ status: 200, broken: false });
    expect([received, watch.end()]).toEqual([256 * MIB, expect.toSatisfy((grown: number) => grown < 32)]);
  } finally {
    await berth.destroy();
    await database.close();
  }
}, 120_000);

/** What a process grows by, at its highest, in MiB. */
class Resident {
  readonly #pid: number;
  readonly #before: number;
  readonly #timer: NodeJS.Timeout;
  #most: number;

  constructor(pid: number) {
    this.#pid = pid;
    this.#before = this.#most = this.#now();
    this.#timer = setInterval(() => (this.#most = Math.max(this.#most, this.#now())), 20);
  }

  end(): number {
    clearInterval(this.#timer);
    return this.#most - this.#before;
  }

  #now(): number {
    return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.#pid}/status`, 'utf8'))?.[1]) / 1024;
  }
}
