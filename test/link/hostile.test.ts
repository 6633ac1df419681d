import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import type { Link } from '../../src/link/link.js';
import { call, Gateway, Refused, startHost, until, upgrade, type TestHost, type TestInstance } from './gateway.js';
import { frame, FRAME, rawConnect, RawPeer, STATUS_200, untilClosed, upgradeHeader } from './hostile.js';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function hostForTest(options: Parameters<typeof startHost>[0] = {}): Promise<TestHost> {
  const host = await startHost(options);
  cleanups.push(() => host.stop());
  return host;
}

/** An honest neighbour, to see that it notices nothing. */
async function neighbour(host: TestHost): Promise<{ link: Link; instance: TestInstance }> {
  const instance = await host.instance('neighbour');
  const gateway = new Gateway((_request, response) => response.end('fine'));
  cleanups.push(() => gateway.close());
  await gateway.dial(instance.socketPath, instance.token);
  return { link: await host.host.waitFor(instance.instanceId, AbortSignal.timeout(5_000)), instance };
}

async function isFine(link: Link): Promise<boolean> {
  const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 5_000 });
  return (await text(answer.body)) === 'fine';
}

async function rawPeer(host: TestHost, instance: TestInstance): Promise<{ peer: RawPeer; link: Link }> {
  const peer = await RawPeer.up(instance.socketPath, instance.token);
  cleanups.push(() => peer.socket.destroy());
  return { peer, link: await host.host.waitFor(instance.instanceId, AbortSignal.timeout(5_000)) };
}

describe('who may come in', () => {
  test('no token, a wrong one and another instance’s are refused on every kind of call, later with 429', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const other = await host.instance('b');
    for (const token of ['', 'wrong', other.token, `${one.token}x`]) {
      await expect(upgrade(one.socketPath, token)).rejects.toMatchObject({ status: 401 });
      expect((await call(one.socketPath, token)).status).toBe(401);
    }
    expect((await call(one.socketPath, 'x', { path: 'http://example.com/' })).status).toBe(407);
    const socket = await rawConnect(one.socketPath);
    socket.write('CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n');
    expect(await untilClosed(socket)).toMatch(/^HTTP\/1.1 407 /);
    await expect(upgrade(one.socketPath, 'wrong')).rejects.toMatchObject({ status: 429, retryAfter: '60' });
    expect((await call(one.socketPath, 'wrong')).status).toBe(429);
    expect((await call(one.socketPath, one.token)).status).toBe(200);
    expect(host.host.get('ins_a')).toBeUndefined();
  });

  test('only GET /link with the protocol’s version is upgraded', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    for (const [from, to, status] of [
      ['GET /link', 'GET /other', 404],
      ['GET /link', 'POST /link', 404],
      ['Upgrade: berth-link', 'Upgrade: websocket', 404],
      ['Protocol: 1', 'Protocol: 2', 400],
    ] as const) {
      const socket = await rawConnect(one.socketPath);
      socket.write(upgradeHeader(one.token).replace(from, to));
      expect(await untilClosed(socket)).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    }
  });
});

describe('connections that waste time', () => {
  test('garbage is answered 400 and closed', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const socket = await rawConnect(one.socketPath);
    socket.write(Buffer.from([0x16, 3, 1, 0, 0xff, 0, 1, 2, 3]));
    expect(await untilClosed(socket)).toMatch(/^HTTP\/1.1 400 /);
  });

  test('silence, a header without end, and a body without end are closed at their time-outs', async () => {
    const host = await hostForTest({ limits: { headerTimeoutMs: 200, bodyTimeoutMs: 400 } });
    const one = await host.instance('a');
    const silent = await rawConnect(one.socketPath);
    const trickling = await rawConnect(one.socketPath);
    trickling.write('GET /link HTTP/1.1\r\n');
    const trickle = setInterval(() => trickling.write('X-A: b\r\n'), 20);
    cleanups.push(() => clearInterval(trickle));
    const body = await rawConnect(one.socketPath);
    body.write(`POST / HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer ${one.token}\r\nContent-Length: 100\r\n\r\n`);
    await Promise.all([untilClosed(silent), untilClosed(trickling), untilClosed(body)]);
  });

  test('a header beyond the cap is refused', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const socket = await rawConnect(one.socketPath);
    socket.write(`GET /link HTTP/1.1\r\nX-A: ${'a'.repeat(20_000)}\r\n`);
    await untilClosed(socket);
  });

  test('more than 64 connections are dropped, and those there stay', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const sockets = await Promise.all(Array.from({ length: 80 }, () => rawConnect(one.socketPath)));
    cleanups.push(() => sockets.forEach((socket) => socket.destroy()));
    for (const socket of sockets) socket.resume();
    await until(() => sockets.filter((socket) => socket.destroyed).length === 16, '16 to be dropped');
    expect(sockets.filter((socket) => !socket.destroyed)).toHaveLength(64);
  });

  test('10,000 requests: those beyond the rate get 429, then the socket vanishes for a while and comes back', async () => {
    const host = await hostForTest({ limits: { penaltyFirstMs: 300, plainBurst: 40, plainPerS: 10 } });
    const { link } = await neighbour(host);
    const one = await host.instance('a');
    const statuses = await Promise.all(Array.from({ length: 60 }, async () => (await call(one.socketPath, one.token)).status));
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
    const socket = await rawConnect(one.socketPath);
    const said = untilClosed(socket);
    socket.write(`GET /x HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer ${one.token}\r\n\r\n`.repeat(10_000));
    expect(await isFine(link)).toBe(true);
    await said;
    expect(host.abuses).toHaveLength(1);
    expect(host.abuses[0]).toMatchObject({ identity: { instanceId: 'ins_a' }, reason: 'kept calling after it was refused' });
    await until(() => !existsSync(one.socketPath), 'the socket to vanish');
    expect(await isFine(link)).toBe(true);
    await until(() => existsSync(one.socketPath), 'the socket to come back');
    expect((await call(one.socketPath, one.token)).status).toBe(200);
  });

  test('connections opened and dropped without end take the socket away', async () => {
    const host = await hostForTest({ limits: { connectionBurst: 100, refusalBurst: 50, penaltyFirstMs: 60_000 } });
    const one = await host.instance('a');
    const hammer = async () => {
      while (host.abuses.length === 0) (await rawConnect(one.socketPath).catch(() => undefined))?.destroy();
    };
    await Promise.all([hammer(), hammer()]);
    expect(host.abuses[0]?.reason).toBe('opened connections without end');
    expect((await call(one.socketPath, one.token).catch(() => ({ status: 429 }))).status).toBe(429);
  });
});

describe('peers that got in', () => {
  test('and do not speak HTTP/2 never become a link, nor take the place of one', async () => {
    const host = await hostForTest({ limits: { handshakeMs: 200 } });
    const one = await host.instance('a');
    const { link } = await rawPeer(host, one);
    const silent = await RawPeer.dial(one.socketPath, one.token);
    const garbage = await RawPeer.dial(one.socketPath, one.token);
    garbage.socket.write('x'.repeat(1000));
    await Promise.all([untilClosed(silent.socket), untilClosed(garbage.socket)]);
    expect(host.host.get('ins_a')).toBe(link);
    expect(link.closed).toBe(false);
  });

  test('and dial again and again are slowed down', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const answers: number[] = [];
    for (let i = 0; i < 30; i++) {
      const peer = await upgrade(one.socketPath, one.token).catch((error: unknown) => error);
      answers.push(peer instanceof Refused ? peer.status : 101);
      if (!(peer instanceof Error)) (peer as { socket: { destroy(): void } }).socket.destroy();
    }
    expect(answers.slice(0, 20)).toEqual(Array(20).fill(101));
    expect(answers.at(-1)).toBe(429);
  });

  test('answer pings live; those that do not are cut; frozen ones are left alone', async () => {
    const host = await hostForTest({ limits: { pingEveryMs: 50, pingAnswerMs: 150, watchEveryMs: 20 } });
    const { link: honest } = await neighbour(host);
    const mute = await host.instance('mute');
    const { link: dead } = await rawPeer(host, mute);
    const frozen = await host.instance('frozen');
    const { link: asleep } = await rawPeer(host, frozen);
    host.host.pauseWatch(frozen.instanceId);
    await until(() => dead.closed, 'the mute peer to be cut');
    expect(host.downs).toEqual(['ins_mute: no answer to a ping']);
    expect(asleep.closed).toBe(false);
    host.host.resumeWatch(frozen.instanceId);
    await until(() => asleep.closed, 'the once frozen peer to be asked and cut');
    expect(honest.closed).toBe(false);
    expect(host.abuses).toEqual([]);
  });

  test('set no streams at all: requests time out, nothing piles up', async () => {
    const host = await hostForTest({ limits: { maxStreams: 50 } });
    const one = await host.instance('a');
    const peer = await RawPeer.dial(one.socketPath, one.token);
    cleanups.push(() => peer.socket.destroy());
    peer.socket.write(frame(FRAME.settings, 0, 0, Buffer.from([0, 3, 0, 0, 0, 0])));
    const link = await host.host.waitFor(one.instanceId, AbortSignal.timeout(5_000));
    const results = await Promise.allSettled(
      Array.from({ length: 60 }, () => link.request({ method: 'GET', path: '/', timeoutMs: 100 })),
    );
    const codes = results.map((result) => (result.status === 'rejected' ? (result.reason as { code: string }).code : 'ok'));
    expect(codes.filter((code) => code === 'timeout')).toHaveLength(50);
    expect(codes.filter((code) => code === 'unavailable')).toHaveLength(10);
    await expect(link.request({ method: 'GET', path: '/', timeoutMs: 100 })).rejects.toMatchObject({ code: 'timeout' });
  });

  test('send headers without end or too large: the request fails', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const { peer, link } = await rawPeer(host, one);
    peer.onFrame((seen) => {
      if (seen.type !== FRAME.headers) return;
      const name = Buffer.from('x'.repeat(60));
      const field = Buffer.concat([
        Buffer.from([0, 60]),
        name,
        Buffer.from([127, 128 + 65, 30]),
        Buffer.alloc(127 + 65 + 30 * 128, 'v'),
      ]);
      const block = Buffer.concat([STATUS_200, ...Array<Buffer>(5).fill(field)]);
      peer.send(frame(FRAME.headers, 0, seen.streamId, block.subarray(0, 16_000)));
      peer.send(frame(FRAME.continuation, 4, seen.streamId, block.subarray(16_000)));
    });
    await expect(link.request({ method: 'GET', path: '/', timeoutMs: 2_000 })).rejects.toMatchObject({ code: 'unavailable' });
  });

  // After some of these Node stops reading without a word; then it is the ping that finds the link dead.
  test('open streams of their own, or send frames beyond the size allowed, are cut', async () => {
    const host = await hostForTest({ limits: { pingEveryMs: 300, pingAnswerMs: 300 } });
    for (const [name, bytes] of Object.entries({
      headers: frame(FRAME.headers, 5, 2, STATUS_200),
      push: frame(FRAME.push, 4, 1, Buffer.from([0, 0, 0, 2, 0x82])),
      oversized: frame(FRAME.data, 0, 1, Buffer.alloc(20_000)),
    })) {
      const one = await host.instance(name);
      const { peer, link } = await rawPeer(host, one);
      void link.request({ method: 'GET', path: '/', timeoutMs: 5_000 }).catch(() => {});
      peer.send(...Array<Buffer>(100).fill(bytes));
      await until(() => link.closed, `${name} to be cut`);
    }
  });

  test('write more than the window allows are cut: an unread response holds no more than its window', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const { peer, link } = await rawPeer(host, one);
    peer.onFrame((seen) => {
      if (seen.type === FRAME.headers) peer.send(frame(FRAME.headers, 4, seen.streamId, STATUS_200));
    });
    const answer = await link.request({ method: 'GET', path: '/', timeoutMs: 2_000 });
    let read = 0;
    const failure = peer.flood(frame(FRAME.data, 0, 1, Buffer.alloc(16_000)), 1024 * 1024 * 1024).then(async () => {
      for await (const chunk of answer.body) read += (chunk as Buffer).length;
    });
    await expect(failure).rejects.toMatchObject({ code: 'unavailable' });
    expect(read).toBeLessThanOrEqual(64 * 1024 + 16 * 1024);
    expect(link.closed).toBe(true);
  });

  test('never read: Berth’s upload waits, and ends with its time-out', async () => {
    const host = await hostForTest();
    const one = await host.instance('a');
    const { peer, link } = await rawPeer(host, one);
    peer.socket.pause();
    let produced = 0;
    const { Readable } = await import('node:stream');
    const source = new Readable({
      read() {
        produced += 16_384;
        this.push(Buffer.alloc(16_384));
      },
    });
    await expect(link.request({ method: 'POST', path: '/', body: source, timeoutMs: 300 })).rejects.toMatchObject({
      code: 'timeout',
    });
    expect(produced).toBeLessThan(1024 * 1024);
    expect(source.destroyed).toBe(true);
  });
});

describe('floods from another process', () => {
  const kinds = [
    'priority',
    'altsvc',
    'origin',
    'unknown',
    'ping',
    'pong',
    'settings',
    'window',
    'emptydata',
    'tinydata',
    'headers',
    'continuation',
    'push',
    'rst',
    'http',
    'chunks',
  ];
  test.each(kinds)('of %s are cut, while the neighbour and a timer go on', async (kind) => {
    const host = await hostForTest({ limits: { penaltyFirstMs: 60_000, pingEveryMs: 500, pingAnswerMs: 500 } });
    const { link } = await neighbour(host);
    const one = await host.instance('a');
    const started = performance.now();
    const child = spawn(process.execPath, [path.join(import.meta.dirname, 'flooder.mjs'), one.socketPath, one.token, kind]);
    cleanups.push(() => child.kill('SIGKILL'));
    const ended = once(child, 'close');
    const output = text(child.stdout);
    const lateness = watchTimer();
    if (kind !== 'http' && kind !== 'chunks') {
      const victim = await host.host.waitFor(one.instanceId, AbortSignal.timeout(10_000));
      void victim.request({ method: 'GET', path: '/', timeoutMs: 10_000 }).then(
        (answer) => answer.body.resume(),
        () => {},
      );
    }
    let slowestMs = 0;
    while (child.exitCode === null) {
      const before = performance.now();
      expect(await isFine(link)).toBe(true);
      slowestMs = Math.max(slowestMs, performance.now() - before);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await ended;
    const sent = Number(/cut (\d+)/.exec(await output)?.[1]);
    const lateMs = lateness.stop();
    if (process.env['LINK_SHOW']) {
      console.log(
        `${kind}: ${Math.round(performance.now() - started)} ms, ${sent} B, neighbour ${Math.round(slowestMs)} ms, timer ${Math.round(lateMs)} ms, ${host.abuses[0]?.reason ?? host.downs[0]}`,
      );
    }
    expect(sent).toBeGreaterThan(0);
    expect(slowestMs).toBeLessThan(2_000);
    expect(lateMs).toBeLessThan(2_000);
    if (kind !== 'continuation') expect(host.abuses).toHaveLength(1);
    expect(host.downs.filter((line) => line.startsWith('ins_neighbour'))).toEqual([]);
  });
});

/** How late a 10 ms timer was, at worst. */
function watchTimer(): { stop(): number } {
  let worst = 0;
  let before = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    worst = Math.max(worst, now - before - 10);
    before = now;
  }, 10);
  return {
    stop: () => {
      clearInterval(timer);
      return worst;
    },
  };
}
