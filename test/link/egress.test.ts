import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { connect, type Socket } from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { EgressPolicy } from '../../src/link/policy.js';
import { until } from '../support/until.js';
import { canSplit, Internet } from './internet.js';

// Proxy and upstreams each live in a network namespace of their own, joined by a cable and without any way out. The upstreams have
// globally routable addresses, and forbidden ones beside them that would answer, if only they were dialled.

const POLICIES: Record<string, EgressPolicy> = {
  none: { mode: 'none' },
  open: { mode: 'open' },
  ports: { mode: 'open', ports: [2525, 8080] },
  hosts: { mode: 'allowlist', hosts: ['site.test', '*.site.test', '93.184.216.35', 'private.test'] },
  flip: { mode: 'open' },
  slow: { mode: 'open' },
  greedy: { mode: 'open' },
  greedy2: { mode: 'open' },
  narrow: { mode: 'allowlist', hosts: ['site.test', 'other.test'], ports: [80, 8080] },
  wide: { mode: 'open', ports: [8080] },
  counted: { mode: 'open', ports: [80, 2525] },
};
const LIMITS = {
  lookUpMs: 700,
  dialMs: 700,
  helloMs: 400,
  idleMs: 1_500,
  maxPerInstance: 8,
  maxPerUser: 10,
  maxLookUpsPerUser: 8,
};

let internet: Internet;
let dir: string;
let reached: Internet['reached'];
let proxy: ChildProcess;

beforeAll(async () => {
  if (!canSplit) return;
  internet = await Internet.start();
  ({ dir, reached } = internet);
  const options = { policies: POLICIES, servers: ['9.9.9.9'], deny: ['93.184.217.0/24'], limits: LIMITS };
  proxy = internet.run(path.join(import.meta.dirname, 'egress-child.ts'), [path.join(dir, 'l'), JSON.stringify(options)]);
  await once(proxy, 'message');
});

afterAll(() => internet?.stop());

afterEach(() => {
  expect(internet?.wrong() ?? []).toEqual([]);
});

function dial(name: string): Socket {
  const socket = connect(path.join(dir, 'l', `ins_${name}`, 'p.sock'));
  socket.on('error', () => {});
  return socket;
}

/** Asks for a tunnel; answers the status and the reason given, and the connection where it is one. */
async function tunnel(name: string, target: string): Promise<{ status: number; reason: string; socket: Socket }> {
  const request = http.request({
    createConnection: () => dial(name),
    method: 'CONNECT',
    path: target,
    headers: { 'proxy-authorization': `Bearer token-${name}` },
  });
  request.end();
  const [response, socket, head] = (await once(request, 'connect')) as [http.IncomingMessage, Socket, Buffer];
  socket.on('error', () => {});
  if (response.statusCode === 200) {
    if (head.length > 0) socket.unshift(head);
    return { status: 200, reason: '', socket };
  }
  let reason = head.toString();
  socket.on('data', (chunk: Buffer) => (reason += chunk.toString()));
  await once(socket, 'close');
  return { status: response.statusCode ?? 0, reason: reason.trim(), socket };
}

async function refusal(name: string, target: string): Promise<string> {
  const { status, reason, socket } = await tunnel(name, target);
  socket.destroy();
  return `${status} ${reason}`;
}

/** One request over a connection, plain or TLS. */
function ask(
  socket: Socket,
  options: http.RequestOptions & { body?: string | Buffer } = {},
): Promise<{ status: number; body: string; headers: http.IncomingHttpHeaders; raw: string[] }> {
  return new Promise((resolve, reject) => {
    const request = http.request({ createConnection: () => socket, path: '/', ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          body: Buffer.concat(chunks).toString('latin1'),
          headers: response.headers,
          raw: response.rawHeaders,
        }),
      );
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(options.body);
  });
}

function secure(socket: Socket, servername: string): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const secured = tls.connect({ socket, servername, rejectUnauthorized: false }, () => resolve(secured));
    secured.on('error', reject);
    socket.once('close', () => reject(new Error('closed')));
  });
}

interface Traffic {
  open: number;
  accepted: number;
  refused: number;
  bytesUp: number;
  bytesDown: number;
  rss: number;
  hosts: Record<string, { connections?: number; refused?: number; bytesUp?: number; bytesDown?: number }>;
}

async function traffic(name: string): Promise<Traffic> {
  const answer = await ask(dial(name), { path: '/traffic', headers: { authorization: `Bearer token-${name}` } });
  return JSON.parse(answer.body);
}

async function tell(message: object): Promise<void> {
  proxy.send(message);
  await once(proxy, 'message');
}

/** An absolute-form request. */
function get(name: string, url: string, options: http.RequestOptions & { body?: string | Buffer } = {}): ReturnType<typeof ask> {
  return ask(dial(name), {
    ...options,
    path: url,
    headers: { host: new URL(url).host, 'proxy-authorization': `Bearer token-${name}`, ...(options.headers as object) },
  });
}

describe.runIf(canSplit)('CONNECT', () => {
  test('carries TLS to a name that is allowed, over IPv4 and IPv6, and counts the bytes', async () => {
    const before = await traffic('open');
    for (const host of ['site.test', 'six.test', 'SITE.test.']) {
      const { status, socket } = await tunnel('open', `${host}:443`);
      expect(status).toBe(200);
      const secured = await secure(socket, host.toLowerCase().replace(/\.$/, ''));
      const answer = await ask(secured, { headers: { host } });
      expect(JSON.parse(answer.body)).toMatchObject({ url: '/', headers: { host } });
      secured.destroy();
    }
    await until(() => reached.some((each) => each.address === '2606:2800::34' && each.port === 443), 'IPv6 to be dialled');
    const after = await traffic('open');
    expect(after.accepted - before.accepted).toBe(3);
    expect(after.bytesUp - before.bytesUp).toBeGreaterThan(600);
    expect(after.bytesDown - before.bytesDown).toBeGreaterThan(1_500);
  });

  test('tries the next address when one does not answer', async () => {
    const { status, socket } = await tunnel('open', 'both.test:443');
    expect(status).toBe(200);
    socket.destroy();
  });

  test('leads nowhere without a policy that opens it', async () => {
    expect(await refusal('none', 'site.test:443')).toBe('403 this instance has no way out to the internet');
  });

  test.each([
    ['10.0.0.5:443', 'private'],
    ['192.168.7.7:80', 'private'],
    ['169.254.169.254:80', 'metadata'],
    ['100.64.0.5:443', 'cgnat'],
    ['127.0.0.1:80', 'loopback'],
    ['[::1]:80', 'loopback'],
    ['0.0.0.0:80', 'this-network'],
    ['[::]:80', 'this-network'],
    ['[::ffff:10.0.0.5]:80', 'mapped'],
    ['[::ffff:a00:5]:80', 'mapped'],
    ['[64:ff9b::10.0.0.5]:80', 'translated'],
    ['[2002:a00:5::1]:80', 'tunnel'],
    ['[fe80::1]:80', 'link-local'],
    ['[fd00:ec2::254]:80', 'metadata'],
    ['224.0.0.1:80', 'multicast'],
    ['255.255.255.255:80', 'broadcast'],
    ['private.test:443', 'private'],
    ['metadata.test:80', 'metadata'],
    ['cgnat.test:443', 'cgnat'],
    ['loopback.test:80', 'loopback'],
    ['mapped.test:443', 'mapped'],
    ['nat64.test:443', 'translated'],
    ['sixtofour.test:443', 'tunnel'],
  ])('to %s is refused', async (target, kind) => {
    expect(await refusal('open', target)).toMatch(new RegExp(`^403 .*a ${kind} address`));
  });

  test.each(['45.33.1.1:80', 'self.test:443', '[2606:2900::1]:80', 'anyip.test:80', '45.77.0.9:443'])(
    'to the host itself as %s is refused',
    async (target) => {
      expect(await refusal('open', target)).toMatch(/^403 .*an address of the host itself/);
    },
  );

  test('to what the operator denies is refused', async () => {
    expect(await refusal('open', 'denied.test:443')).toMatch(/^403 .*that the operator denies/);
  });

  test('dials only the checked ones among mixed answers, and never asks a second time', async () => {
    for (const host of ['mixed.test', 'rebind.test']) {
      const { status, socket } = await tunnel('open', `${host}:443`);
      expect(status).toBe(200);
      await secure(socket, host);
      socket.destroy();
    }
    expect(await refusal('open', 'rebind.test:443')).toMatch(/^403 .*a private address/);
    expect(await refusal('open', 'many.test:443')).toMatch(/^403 .*a private address/);
  });

  test.each([
    ['nowhere.test:443', /^502 nowhere.test has no address$/],
    ['none.test:443', /^502 none.test has no address$/],
    ['slow.test:443', /^504 no name server answered for slow.test$/],
    ['93.184.216.99:443', /^504 no answer in time$/],
    ['45.33.1.2:444', /^403 port 444 is not allowed$/],
    ['site.test:22', /^403 port 22 is not allowed$/],
    ['site.test', /^400 /],
    ['site.test:0', /^400 /],
    ['site.test:70000', /^400 /],
    ['127.1:80', /^400 /],
    ['2130706433:80', /^400 /],
    ['0x7f000001:80', /^400 /],
    ['0177.0.0.1:80', /^400 /],
    ['[fe80::1%25eth0]:80', /^400 /],
    ['[site.test]:80', /^400 /],
    ['user@site.test:80', /^400 /],
    ['site.test:80@10.0.0.5', /^400 /],
    ['a..b:80', /^400 /],
    [`${'a'.repeat(64)}.test:80`, /^400 /],
    ['::1:80', /^400 /],
  ])('to %s fails clearly', async (target, expected) => {
    expect(await refusal('open', target)).toMatch(expected);
  });

  test('holds TLS to the name that was asked for', async () => {
    const { socket } = await tunnel('open', 'site.test:443');
    await expect(secure(socket, 'other.test')).rejects.toThrow(/unrecognized name|alert number 112/i);
    const nameless = await tunnel('open', 'site.test:443');
    await expect(secure(nameless.socket, '')).rejects.toThrow(/unrecognized name|alert number 112/i);
    const byAddress = await tunnel('open', '93.184.216.34:443');
    await expect(secure(byAddress.socket, 'site.test')).rejects.toThrow(/unrecognized name|alert number 112/i);
    const honest = await tunnel('open', '93.184.216.34:443');
    (await secure(honest.socket, '')).destroy();
  });

  test('lets nothing but TLS through to port 443: not HTTP, not silence, not a hello without end', async () => {
    for (const first of [
      'GET / HTTP/1.1\r\nHost: site.test\r\n\r\n',
      '',
      '\x16\x03\x01\x40\x00\x01\x00\x3f',
      `\x16\x03\x01\x00\x02\x01\x00${'\x16\x03\x01\x00\x01\x00'.repeat(4_000)}`,
    ]) {
      const { status, socket } = await tunnel('open', 'site.test:443');
      expect(status).toBe(200);
      socket.write(Buffer.from(first, 'latin1'));
      const said: Buffer[] = [];
      socket.on('data', (chunk: Buffer) => said.push(chunk));
      await once(socket, 'close');
      expect(Buffer.concat(said).toString('latin1')).not.toContain('HTTP/1.1 200');
    }
  });

  test('to listed ports is a plain tunnel, in which the server may speak first', async () => {
    const { socket } = await tunnel('ports', 'site.test:2525');
    const [greeting] = (await once(socket, 'data')) as [Buffer];
    expect(greeting.toString()).toBe('220 hello\r\n');
    const web = await tunnel('ports', 'site.test:8080');
    expect((await ask(web.socket, { headers: { host: 'site.test:8080' } })).status).toBe(200);
    const secured = await tunnel('ports', 'site.test:8080');
    await expect(secure(secured.socket, 'other.test')).rejects.toThrow();
    expect(await refusal('ports', 'site.test:443')).toBe('403 port 443 is not allowed');
  });

  test('is cut when nothing moves, and its place is free again', async () => {
    const { socket } = await tunnel('ports', 'site.test:8080');
    await once(socket.resume(), 'close');
    while ((await traffic('ports')).open > 0);
  });

  test('is capped for each instance, and the others are not touched by it', async () => {
    const tunnels = await Promise.all(Array.from({ length: 8 }, () => tunnel('slow', 'site.test:80')));
    expect(tunnels.map((each) => each.status)).toEqual(Array(8).fill(200));
    expect(await refusal('slow', 'site.test:80')).toBe('429 too many connections');
    const other = await tunnel('open', 'site.test:80');
    expect(other.status).toBe(200);
    for (const each of [...tunnels, other]) each.socket.destroy();
    while ((await traffic('slow')).open > 0);
  });

  test('is capped for all instances of a user together, connections as well as names being looked up', async () => {
    const of = (name: string, count: number) => Promise.all(Array.from({ length: count }, () => tunnel(name, 'site.test:80')));
    const tunnels = [...(await of('greedy', 8)), ...(await of('greedy2', 2))];
    expect(tunnels.map((each) => each.status)).toEqual(Array(10).fill(200));
    expect(await refusal('greedy2', 'site.test:80')).toBe('429 too many connections of this user');
    for (const each of tunnels) each.socket.destroy();
    while ((await traffic('greedy')).open + (await traffic('greedy2')).open > 0);

    const names = [...Array<string>(8).fill('greedy'), 'greedy2', 'greedy2'];
    const looking = names.map((name) => refusal(name, 'slow.test:80'));
    const other = await tunnel('open', 'site.test:80');
    expect(other.status).toBe(200);
    other.socket.destroy();
    const refused = (await Promise.all(looking)).filter((reason) => reason.startsWith('429'));
    expect(refused).toEqual(Array(2).fill('429 too many names are being looked up for this user'));
    expect((await tunnel('greedy2', 'site.test:80')).status).toBe(200);
  });

  test('carries much data whole, and holds back a server whose client does not read', async () => {
    const { socket } = await tunnel('ports', 'site.test:8080');
    const answer = await ask(socket, { path: '/big', headers: { host: 'site.test:8080' } });
    expect(answer.body.length).toBe(8 * 1024 * 1024);
    const before = await traffic('ports');
    const lazy = await tunnel('ports', 'site.test:8080');
    lazy.socket.pause();
    lazy.socket.write('GET /big HTTP/1.1\r\nHost: site.test:8080\r\n\r\n');
    let moved = -1;
    for (let last = -2; moved !== last;) {
      last = moved;
      await new Promise((resolve) => setTimeout(resolve, 100));
      moved = (await traffic('ports')).bytesDown - before.bytesDown;
    }
    expect(moved).toBeLessThan(2 * 1024 * 1024);
    lazy.socket.destroy();
  });
});

describe.runIf(canSplit)('a list of hosts', () => {
  test('lets through exact names, names under a suffix and listed addresses', async () => {
    for (const [target, name] of [
      ['site.test:443', 'site.test'],
      ['www.site.test:443', 'www.site.test'],
      ['93.184.216.35:443', ''],
    ] as const) {
      const { status, socket } = await tunnel('hosts', target);
      expect(status).toBe(200);
      (await secure(socket, name)).destroy();
    }
    for (const target of [
      'other.test:443',
      'notsite.test:443',
      'site.test.other.test:443',
      '93.184.216.34:443',
      '[2606:2800::34]:443',
    ]) {
      expect(await refusal('hosts', target)).toMatch(/^403 .* is not among the allowed hosts$/);
    }
    expect(await refusal('hosts', 'private.test:443')).toMatch(/^403 .*a private address/);
  });

  test('refuses a hello that may hide its true name', async () => {
    const { socket } = await tunnel('hosts', 'site.test:443');
    socket.write(helloWith(['site.test'], true));
    const [alert] = (await once(socket, 'data')) as [Buffer];
    expect([...alert]).toEqual([21, 3, 3, 0, 2, 2, 112]);
  });

  test('holds every request in a plain tunnel to the name', async () => {
    const { socket } = await tunnel('hosts', 'site.test:80');
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    Object.assign(agent, { createConnection: () => socket });
    const first = await ask(undefined as unknown as Socket, {
      agent,
      createConnection: undefined,
      path: '/one',
      headers: { host: 'site.test' },
    });
    expect(JSON.parse(first.body)).toMatchObject({ url: '/one', headers: { host: 'site.test' } });
    const second = await ask(undefined as unknown as Socket, {
      agent,
      createConnection: undefined,
      path: '/two',
      headers: { host: 'other.test' },
    });
    expect(second).toMatchObject({ status: 403, body: 'the Host header does not name the target\n' });
  });
});

describe.runIf(canSplit)('absolute-form requests', () => {
  test('are sent on without the proxy’s credentials and hop-by-hop headers', async () => {
    const answer = await get('open', 'http://site.test/path?q=1', {
      headers: {
        authorization: 'Bearer for-the-site',
        'proxy-connection': 'keep-alive',
        te: 'trailers',
        'x-own': '1',
        connection: 'x-drop',
        'x-drop': '1',
      },
    });
    expect(answer.status).toBe(200);
    const seen = JSON.parse(answer.body) as { url: string; headers: Record<string, string> };
    expect(seen.url).toBe('/path?q=1');
    expect(seen.headers).toEqual({ host: 'site.test', authorization: 'Bearer for-the-site', 'x-own': '1', connection: 'close' });
    expect(answer.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(answer.headers['x-hop']).toBeUndefined();
    expect(answer.raw.filter((name) => name.toLowerCase() === 'date')).toHaveLength(1);
  });

  test('carry bodies, with and without a length', async () => {
    const body = Buffer.alloc(300_000, 'x');
    const sized = await get('open', 'http://site.test/', { method: 'POST', body, headers: { 'content-length': body.length } });
    expect(JSON.parse(sized.body)).toMatchObject({ method: 'POST', bytes: 300_000, headers: { 'content-length': '300000' } });
    const chunked = await get('open', 'http://site.test/', {
      method: 'DELETE',
      body,
      headers: { 'transfer-encoding': 'chunked' },
    });
    expect(JSON.parse(chunked.body)).toMatchObject({
      method: 'DELETE',
      bytes: 300_000,
      headers: { 'transfer-encoding': 'chunked' },
    });
    expect((await get('open', 'http://site.test/big')).body.length).toBe(8 * 1024 * 1024);
  });

  test.each([
    ['none', 'http://site.test/', {}, 403, /no way out/],
    ['hosts', 'http://other.test/', {}, 403, /not among the allowed/],
    ['open', 'http://10.0.0.5/', {}, 403, /private/],
    ['open', 'http://metadata.test/latest/meta-data', {}, 403, /metadata/],
    ['open', 'http://anyip.test/', {}, 403, /host itself/],
    ['open', 'http://site.test:443/', {}, 403, /443 is for TLS/],
    ['open', 'http://site.test:8080/', {}, 403, /port 8080/],
    ['open', 'http://site.test/', { host: 'other.test' }, 403, /Host header/],
    ['open', 'http://site.test/', { host: 'site.test:8080' }, 403, /Host header/],
    ['open', 'https://site.test/', {}, 400, /http:\/\//],
    ['open', 'http://nowhere.test/', {}, 502, /no address/],
    ['open', 'http://slow.test/', {}, 504, /name server/],
    ['open', 'http://site.test/smuggle', {}, 502, /upstream/],
    ['open', 'http://site.test/hang', {}, 502, /upstream/],
  ])('of %s to %s with %j are refused', async (name, url, headers, status, reason) => {
    const answer = await get(name, url, { headers });
    expect(answer.status).toBe(status);
    expect(answer.body).toMatch(reason);
  });
});

test.runIf(canSplit)('a stricter policy counts at once, also for what is open', async () => {
  const { socket } = await tunnel('flip', 'site.test:80');
  const closed = once(socket.resume(), 'close');
  await tell({ policies: { flip: { mode: 'none' } }, cut: 'ins_flip' });
  await closed;
  expect(await refusal('flip', 'site.test:80')).toMatch(/^403 /);
});

describe.runIf(canSplit)('a policy that becomes stricter', () => {
  test('cuts what it forbids and leaves the rest open, without a word of the instance', async () => {
    const kept = (await tunnel('narrow', 'site.test:8080')).socket.resume();
    const lost = (await tunnel('narrow', 'other.test:8080')).socket.resume();
    const plain = dial('narrow');
    plain.write('GET http://other.test/hang HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Bearer token-narrow\r\n\r\n');
    await until(() => reached.some((each) => each.address.endsWith('93.184.216.35') && each.port === 80), 'the plain request');
    const closed = Promise.all([once(lost, 'close'), once(plain.resume(), 'close')]);
    await tell({ policies: { narrow: { mode: 'allowlist', hosts: ['site.test'], ports: [8080] } }, recheck: 'dep_narrow' });
    await closed;
    expect(kept.destroyed).toBe(false);
    kept.destroy();
  });

  test('cuts what was let through unread and may hide another name', async () => {
    const { socket } = await tunnel('wide', 'site.test:8080');
    const closed = once(socket.resume(), 'close');
    await tell({ policies: { wide: { mode: 'allowlist', hosts: ['site.test'], ports: [8080] } }, recheck: 'dep_wide' });
    await closed;
  });

  test('reaches what is still being dialled', async () => {
    await tell({ policies: { wide: { mode: 'open' } } });
    const socket = dial('wide');
    socket.write('CONNECT 93.184.216.99:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer token-wide\r\n\r\n');
    await until(async () => (await traffic('wide')).open === 1, 'the dial to begin');
    let said = '';
    socket.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await tell({ policies: { wide: { mode: 'none' } }, recheck: 'dep_wide' });
    await until(() => socket.destroyed, 'the connection to be cut');
    expect(said).toBe('');
  });
});

test.runIf(canSplit)('every connection is counted by host and bytes, refused ones too', async () => {
  const { socket } = await tunnel('counted', 'site.test:2525');
  await once(socket, 'data');
  socket.end('hello');
  await once(socket.resume(), 'close');
  const url = 'http://other.test/big';
  await ask(dial('counted'), { path: url, headers: { host: 'other.test', 'proxy-authorization': 'Bearer token-counted' } });
  await refusal('counted', 'site.test:22');
  await refusal('counted', 'private.test:80');
  await refusal('counted', 'nonsense');
  await until(async () => (await traffic('counted')).hosts['other.test:80']?.bytesDown !== undefined, 'the bytes to be counted');
  const { hosts } = await traffic('counted');
  expect(hosts).toEqual({
    'site.test:2525': { connections: 1, bytesUp: 5, bytesDown: 11 },
    'other.test:80': { connections: 1, bytesUp: expect.any(Number), bytesDown: expect.any(Number) },
    'site.test:22': { refused: 1 },
    'private.test:80': { refused: 1 },
    '*:0': { refused: 1 },
  });
  expect(hosts['other.test:80']?.bytesDown).toBeGreaterThan(8 * 1024 * 1024);
});

/** A ClientHello with these server names, and with the mark of an encrypted one. */
function helloWith(names: string[], isEncrypted: boolean): Buffer {
  const u16 = (value: number) => Buffer.from([value >> 8, value & 255]);
  const vector = (body: Buffer) => Buffer.concat([u16(body.length), body]);
  const extensions = names.map((name) => {
    const entry = Buffer.concat([Buffer.from([0]), vector(Buffer.from(name))]);
    return Buffer.concat([u16(0), vector(vector(entry))]);
  });
  if (isEncrypted) extensions.push(Buffer.concat([u16(0xfe0d), vector(Buffer.alloc(10))]));
  const body = Buffer.concat([
    u16(0x0303),
    Buffer.alloc(32),
    Buffer.from([0]),
    vector(Buffer.from([0x13, 1])),
    Buffer.from([1, 0]),
    vector(Buffer.concat(extensions)),
  ]);
  const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
  return Buffer.concat([Buffer.from([22, 3, 1]), vector(message)]);
}
