import { existsSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { checkLinkDir } from '../../src/link/folder.js';
import { LinkHost } from '../../src/link/host.js';
import type { Link } from '../../src/link/link.js';
import { call, Gateway, sha256, silentLog, startHost, until, type TestHost, type TestInstance } from './gateway.js';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function hostForTest(options: Parameters<typeof startHost>[0] = {}): Promise<TestHost> {
  const test = await startHost(options);
  cleanups.push(() => test.stop());
  return test;
}

async function linked(
  test: TestHost,
  name: string,
  onRequest: ConstructorParameters<typeof Gateway>[0],
): Promise<{ instance: TestInstance; gateway: Gateway; link: Link }> {
  const instance = await test.instance(name);
  const gateway = new Gateway(onRequest);
  cleanups.push(() => gateway.close());
  await gateway.dial(instance.socketPath, instance.token);
  const link = await test.host.waitFor(instance.instanceId, AbortSignal.timeout(5_000));
  return { instance, gateway, link };
}

describe('requests over a link', () => {
  test('carry method, path, headers and body there, and status, headers and body back', async () => {
    const host = await hostForTest();
    const { link } = await linked(host, 'a', async (request, response) => {
      const body = await text(request);
      response.writeHead(201, {
        'x-seen': `${request.method} ${request.url} ${request.headers['x-berth-turn']}`,
        'set-cookie': ['a=1', 'b=2'],
      });
      response.end(body.toUpperCase());
    });
    const answer = await link.request({
      method: 'PUT',
      path: '/berth/v1/config?x=1',
      headers: { 'x-berth-turn': 'trn_1' },
      body: 'hello',
      timeoutMs: 2_000,
    });
    expect(answer.status).toBe(201);
    expect(answer.headers['x-seen']).toBe('PUT /berth/v1/config?x=1 trn_1');
    expect(answer.headers['set-cookie']).toBe('a=1, b=2');
    expect(await text(answer.body)).toBe('HELLO');
  });

  test('send a stream as body, and fail when that stream fails', async () => {
    const host = await hostForTest();
    const wasCut: boolean[] = [];
    let seen = 0;
    const { link } = await linked(host, 'a', async (request, response) => {
      request.once('data', () => (seen += 1));
      request.stream.once('close', () => wasCut.push(request.stream.aborted));
      request.on('error', () => {});
      response.end(await text(request).catch(() => ''));
    });
    const answer = await link.request({
      method: 'POST',
      path: '/',
      body: Readable.from(['one ', 'two ', 'three']),
      timeoutMs: 2_000,
    });
    expect(await text(answer.body)).toBe('one two three');
    const failing = Readable.from(
      (async function* () {
        yield 'one';
        await until(() => seen === 2, 'the peer to see the request');
        throw new Error('the source broke');
      })(),
    );
    await expect(link.request({ method: 'POST', path: '/', body: failing, timeoutMs: 2_000 })).rejects.toThrow(
      'the source broke',
    );
    await until(() => wasCut.length === 2, 'the peer to see the end of both');
    expect(wasCut).toEqual([false, true]);
  });

  test('time out when no headers come, and the peer sees the reset', async () => {
    const host = await hostForTest();
    let code: number | undefined;
    const { link } = await linked(host, 'a', (request) => {
      request.stream.once('close', () => (code = request.stream.rstCode));
      request.stream.on('error', () => {});
    });
    await expect(link.request({ method: 'GET', path: '/', timeoutMs: 50 })).rejects.toMatchObject({ code: 'timeout' });
    await until(() => code === 8, 'RST_STREAM CANCEL');
    expect(link.closed).toBe(false);
  });

  test('an abort before and amid the body reaches the peer as CANCEL', async () => {
    const host = await hostForTest();
    const codes: (number | undefined)[] = [];
    const { link } = await linked(host, 'a', (request, response) => {
      request.stream.once('close', () => codes.push(request.stream.rstCode));
      request.stream.on('error', () => {});
      if (request.url === '/stream') response.write('first');
    });
    const early = new AbortController();
    const waiting = link.request({ method: 'GET', path: '/', signal: early.signal, timeoutMs: 5_000 });
    early.abort(new Error('client left'));
    await expect(waiting).rejects.toThrow('client left');

    const late = new AbortController();
    const answer = await link.request({ method: 'GET', path: '/stream', signal: late.signal, timeoutMs: 5_000 });
    answer.body.once('data', () => late.abort(new Error('client left later')));
    await expect(text(answer.body)).rejects.toThrow('client left later');

    const unread = await link.request({ method: 'GET', path: '/stream', timeoutMs: 5_000 });
    unread.body.destroy();
    await until(() => codes.length >= 2, 'the peer to see the resets');
    expect(codes.every((code) => code === 8)).toBe(true);
    await expect(
      link.request({ method: 'GET', path: '/', signal: AbortSignal.abort(new Error('no')), timeoutMs: 1 }),
    ).rejects.toThrow('no');
  });

  test('a link lost amid a body is an error of the body, and of what comes after', async () => {
    const host = await hostForTest();
    const { link, gateway } = await linked(host, 'a', (_request, response) => void response.write('half'));
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    answer.body.once('data', () => gateway.close());
    await expect(text(answer.body)).rejects.toMatchObject({ code: 'unavailable' });
    await until(() => link.closed, 'the link to be down');
    await expect(link.request({ method: 'GET', path: '/', timeoutMs: 2_000 })).rejects.toMatchObject({ code: 'unavailable' });
    expect(host.downs).toHaveLength(1);
  });

  test('a link that Berth closes amid a body does not make it look complete', async () => {
    const host = await hostForTest();
    const { link } = await linked(host, 'a', (_request, response) => void response.write('half'));
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    answer.body.once('data', () => link.close('enough'));
    await expect(text(answer.body)).rejects.toMatchObject({ code: 'unavailable' });
    expect(host.downs).toEqual(['ins_a: enough']);
  });

  test('a response that the peer resets in its midst is an error, not a short body', async () => {
    const host = await hostForTest();
    const { link } = await linked(host, 'a', (request, response) => {
      request.stream.on('error', () => {});
      response.write('half', () => request.stream.close(2));
    });
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    await expect(text(answer.body)).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('a thousand calls one after another, a hundred at once, and thousands in a rush are no abuse', async () => {
    const host = await hostForTest();
    const { link } = await linked(host, 'a', (request, response) => response.end(request.url));
    for (let i = 0; i < 1000; i++) {
      const answer = await link.request({ method: 'GET', path: `/${i}`, timeoutMs: 2_000 });
      if ((await text(answer.body)) !== `/${i}`) throw new Error(`call ${i} got another's answer`);
    }
    const many = Array.from({ length: 100 }, async (_, i) => {
      const answer = await link.request({ method: 'GET', path: `/${i}`, timeoutMs: 5_000 });
      return text(answer.body);
    });
    expect(await Promise.all(many)).toEqual(Array.from({ length: 100 }, (_, i) => `/${i}`));
    for (let round = 0; round < 60; round++) {
      const calls = Array.from({ length: 100 }, () => link.request({ method: 'GET', path: '/x', timeoutMs: 5_000 }));
      for (const answer of await Promise.all(calls)) answer.body.resume();
    }
    expect(host.abuses).toEqual([]);
  });

  test('a slow reader holds the writer back', async () => {
    const host = await hostForTest();
    let written = 0;
    const { link } = await linked(host, 'a', (_request, response) => {
      const piece = Buffer.alloc(16 * 1024, 'x');
      const write = () => {
        while (written < 8 * 1024 * 1024) {
          written += piece.length;
          if (!response.write(piece)) return void response.once('drain', write);
        }
        response.end();
      };
      write();
    });
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    let before = -1;
    await until(() => {
      const isStill = before === written;
      before = written;
      return isStill && written > 0;
    }, 'the writer to stop');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(written).toBeLessThan(512 * 1024);
    let read = 0;
    for await (const chunk of answer.body) read += (chunk as Buffer).length;
    expect(read).toBe(8 * 1024 * 1024);
    expect(host.abuses).toEqual([]);
  });

  test('pieces beyond the pace are held back, and all arrive', async () => {
    const host = await hostForTest({ limits: { pieceBurst: 40, piecesPerS: 400, watchEveryMs: 10 } });
    const { link } = await linked(host, 'a', async (_request, response) => {
      for (let i = 0; i < 200; i++) {
        response.write(`${i} `.padEnd(100));
        await new Promise((resolve) => setImmediate(resolve));
      }
      response.end();
    });
    const started = performance.now();
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    expect((await text(answer.body)).trim().split(/ +/)).toEqual(Array.from({ length: 200 }, (_, i) => String(i)));
    expect(performance.now() - started).toBeGreaterThan(100);
    expect(host.abuses).toEqual([]);
  });

  test('a peer that says goodbye finishes what is open and gets nothing new', async () => {
    const host = await hostForTest();
    const { link, gateway } = await linked(host, 'a', (_request, response) => {
      response.write('half');
      gateway.session?.close();
      setTimeout(() => response.end(' and half'), 30);
    });
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    await until(() => link.closed, 'the goodbye');
    expect(host.host.get('ins_a')).toBeUndefined();
    expect(await text(answer.body)).toBe('half and half');
    expect(host.downs).toEqual(['ins_a: the instance is going away']);
  });
});

describe('the registry', () => {
  test('finds links by instance and by deployment, and tells when they come and go', async () => {
    const host = await hostForTest();
    expect(host.host.get('ins_a')).toBeUndefined();
    const { gateway, link } = await linked(host, 'a', (_request, response) => response.end());
    expect(host.host.get('ins_a')).toBe(link);
    expect(host.host.get('dep_a')).toBe(link);
    expect(host.host.links()).toEqual([link]);
    expect(host.ups).toEqual(['ins_a']);
    gateway.close();
    await until(() => host.downs.length === 1, 'onDown');
    expect(host.host.get('ins_a')).toBeUndefined();
    expect(host.host.get('dep_a')).toBeUndefined();
  });

  test('a newer link takes the place of the older', async () => {
    const host = await hostForTest();
    const { link, instance } = await linked(host, 'a', (_request, response) => response.end('old'));
    const newer = new Gateway((_request, response) => response.end('new'));
    cleanups.push(() => newer.close());
    await newer.dial(instance.socketPath, instance.token);
    await until(() => link.closed, 'the older link to be closed');
    const now = host.host.get('ins_a');
    const answer = await now!.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    expect(await text(answer.body)).toBe('new');
    expect(host.host.get('dep_a')).toBe(now);
    expect(host.downs).toEqual(['ins_a: replaced by a newer link']);
  });

  test('waiting ends with the signal and with the closing of the instance', async () => {
    const host = await hostForTest();
    const instance = await host.instance('a');
    await expect(host.host.waitFor(instance.instanceId, AbortSignal.timeout(20))).rejects.toMatchObject({ name: 'TimeoutError' });
    const waiting = host.host.waitFor(instance.instanceId, AbortSignal.timeout(5_000));
    const failure = waiting.catch((error: unknown) => error);
    await host.host.close(instance.instanceId);
    expect(await failure).toMatchObject({ code: 'unavailable' });
  });

  test('two processes serve the same instance, each by its own socket', async () => {
    const one = await hostForTest({ processId: 'prc_1' });
    const two = await startHost({ processId: 'prc_2', dir: one.dir });
    cleanups.push(() => two.host.shutdown());
    const instance = await one.instance('a');
    await two.host.open(instance, sha256(instance.token));
    for (const [process, host] of [
      ['prc_1', one],
      ['prc_2', two],
    ] as const) {
      const gateway = new Gateway((_request, response) => response.end(process));
      cleanups.push(() => gateway.close());
      await gateway.dial(path.join(instance.folder, `${process}.sock`), instance.token);
      const link = await host.host.waitFor('ins_a', AbortSignal.timeout(5_000));
      expect(await text((await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 })).body)).toBe(process);
    }
    await one.host.shutdown();
    expect(existsSync(path.join(instance.folder, 'prc_1.sock'))).toBe(false);
    expect(two.host.get('ins_a')?.closed).toBe(false);
  });
});

describe('plain calls', () => {
  test('reach the handler with the proven identity', async () => {
    const host = await hostForTest();
    const instance = await host.instance('a');
    expect(await call(instance.socketPath, instance.token, { body: '{}' })).toMatchObject({ status: 200, body: 'hello ins_a' });
  });

  test('of a handler that throws are answered 500', async () => {
    const host = await hostForTest({
      handler: () => {
        throw new Error('broken');
      },
    });
    const instance = await host.instance('a');
    expect((await call(instance.socketPath, instance.token)).status).toBe(500);
  });

  test('to the proxy are refused when there is none', async () => {
    const host = await hostForTest();
    const instance = await host.instance('a');
    const answer = await call(instance.socketPath, instance.token, { path: 'http://example.com/', method: 'GET' });
    expect(answer.status).toBe(407);
  });
});

describe('folders', () => {
  test('are made with the right modes, and the token is written whole', async () => {
    const host = await hostForTest();
    const instance = await host.instance('a');
    await host.host.writeToken(instance.instanceId, instance.token);
    await host.host.writeToken(instance.instanceId, instance.token);
    expect(statSync(host.dir).mode & 0o777).toBe(0o700);
    expect(statSync(instance.folder).mode & 0o777).toBe(0o755);
    expect(statSync(instance.socketPath).mode & 0o777).toBe(0o666);
    expect(statSync(path.join(instance.folder, 'token')).mode & 0o777).toBe(0o444);
    expect(readFileSync(path.join(instance.folder, 'token'), 'utf8')).toBe(instance.token);
    expect(await host.host.list()).toEqual(['ins_a']);
    expect(host.host.folderOf('ins_a')).toBe(instance.folder);
  });

  test('opening twice changes nothing but the token', async () => {
    const host = await hostForTest();
    const instance = await host.instance('a');
    const inode = statSync(instance.socketPath).ino;
    await Promise.all([host.host.open(instance, sha256('other')), host.host.open(instance, sha256('other'))]);
    expect(statSync(instance.socketPath).ino).toBe(inode);
    expect((await call(instance.socketPath, instance.token)).status).toBe(401);
    expect((await call(instance.socketPath, 'other')).status).toBe(200);
  });

  test('opening for another owner cuts what the first one had', async () => {
    const host = await hostForTest();
    const { link, instance } = await linked(host, 'a', (_request, response) => response.end());
    await host.host.open({ ...instance, deploymentId: 'dep_new' }, sha256(instance.token));
    expect(link.closed).toBe(true);
    const gateway = new Gateway((_request, response) => response.end());
    cleanups.push(() => gateway.close());
    await gateway.dial(instance.socketPath, instance.token);
    await until(() => host.host.get('dep_new') !== undefined, 'the link of the new owner');
    expect(host.host.get('dep_a')).toBeUndefined();
  });

  test('lose the sockets of dead processes, keep those of living ones, and follow no symlink', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'bl-'));
    cleanups.push(() => rm(dir, { recursive: true, force: true }));
    const folder = path.join(dir, 'ins_a');
    mkdirSync(folder);
    await leaveStaleSocket(path.join(folder, 'prc_dead.sock'));
    await leaveStaleSocket(path.join(folder, 'prc_test.sock'));
    const living = net.createServer().listen(path.join(folder, 'prc_living.sock'));
    cleanups.push(() => living.close());
    const precious = path.join(dir, 'precious');
    writeFileSync(precious, 'keep');
    symlinkSync(precious, path.join(folder, 'prc_link.sock'));
    const host = await hostForTest({ dir });
    const instance = await host.instance('a');
    expect(existsSync(path.join(folder, 'prc_dead.sock'))).toBe(false);
    expect(existsSync(path.join(folder, 'prc_living.sock'))).toBe(true);
    expect(lstatSync(path.join(folder, 'prc_link.sock')).isSymbolicLink()).toBe(true);
    expect((await call(instance.socketPath, instance.token)).status).toBe(200);
    await host.host.remove('ins_a');
    expect(existsSync(folder)).toBe(false);
    expect(readFileSync(precious, 'utf8')).toBe('keep');
  });

  test('a symlink in the place of a folder is refused to open and unlinked by remove', async () => {
    const host = await hostForTest();
    const elsewhere = await mkdtemp(path.join(tmpdir(), 'bl-'));
    cleanups.push(() => rm(elsewhere, { recursive: true, force: true }));
    writeFileSync(path.join(elsewhere, 'precious'), 'keep');
    mkdirSync(host.dir, { recursive: true });
    symlinkSync(elsewhere, path.join(host.dir, 'ins_a'));
    await expect(host.instance('a')).rejects.toMatchObject({ code: 'conflict' });
    expect(await host.host.list()).toEqual([]);
    await host.host.remove('ins_a');
    expect(existsSync(path.join(host.dir, 'ins_a'))).toBe(false);
    expect(readFileSync(path.join(elsewhere, 'precious'), 'utf8')).toBe('keep');
  });

  test('too deep for a socket path are named so at start', async () => {
    const deep = path.join(tmpdir(), 'x'.repeat(90));
    expect(() => checkLinkDir(deep)).toThrow(/LINK_DIR/);
    expect(() => new LinkHost({ dir: deep, processId: 'prc_1', log: silentLog, handler: () => {} })).toThrow(/107/);
    expect(() => checkLinkDir('/var/lib/berth/link')).not.toThrow();
    const host = await hostForTest();
    await expect(host.host.open({ instanceId: '../up', deploymentId: 'd', userId: 'u' }, sha256('x'))).rejects.toMatchObject({
      code: 'invalid_request',
    });
  });
});

/** What a killed process leaves behind: a socket file that nobody listens on. */
async function leaveStaleSocket(file: string): Promise<void> {
  const { spawnSync } = await import('node:child_process');
  const script = `require('net').createServer().listen(${JSON.stringify(file)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
  expect(lstatSync(file).isSocket()).toBe(true);
}
