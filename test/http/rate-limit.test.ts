import { describe, expect, test } from 'vitest';
import { ClientAddress, networkOf, RateLimits } from '../../src/http/rate-limit.js';
import { startToy } from './toy.js';

describe('rate limits over HTTP', () => {
  test('count by key, say what is left, and refuse what is too much', async () => {
    const toy = await startToy({}, { limits: (caller) => (caller.kind === 'admin' ? undefined : 3) });
    const seen = [];
    for (let i = 0; i < 4; i++) {
      const { status, headers } = await toy.get('/api/v1/agents', { key: 'ada-key' });
      seen.push([status, headers.get('ratelimit-limit'), headers.get('ratelimit-remaining')]);
    }
    expect(seen).toEqual([
      [200, '3', '2'],
      [200, '3', '1'],
      [200, '3', '0'],
      [429, '3', '0'],
    ]);
    const refused = await toy.get('/api/v1/agents', { key: 'ada-key' });
    expect(refused.headers.get('retry-after')).toBe(refused.headers.get('ratelimit-reset'));
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(50);
    expect(await refused.json()).toMatchObject({ code: 'rate_limited', error: 'more than 3 requests in a minute' });
    expect((await toy.get('/api/v1/agents', { key: 'bob-key' })).status).toBe(200);
    const admin = await toy.get('/api/v1/users/ada/agents', { key: 'admin-key' });
    expect([admin.status, admin.headers.get('ratelimit-limit')]).toEqual([200, null]);
    await toy.close();
  });

  test('count failures and requests without a key by address; a living key still works', async () => {
    let asked = 0;
    const toy = await startToy(
      {},
      {
        rates: { perAddress: 2, failuresPerAddress: 2 },
        authenticator: {
          authenticate: (key) =>
            Promise.resolve((asked++, key === 'good' ? ({ kind: 'admin', keyId: 'key_1' } as const) : undefined)),
        },
      },
    );
    const statuses = async (count: number, path: string, key?: string) => {
      const all = [];
      for (let i = 0; i < count; i++) all.push((await toy.get(path, key === undefined ? {} : { key })).status);
      return all;
    };
    expect(await statuses(3, '/api/v1/tiers')).toEqual([401, 401, 429]);
    expect(await statuses(3, '/api/v1/tiers', 'bad')).toEqual([401, 401, 429]);
    expect(await statuses(1, '/open')).toEqual([429]);
    expect(await statuses(1, '/health')).toEqual([200]);
    expect(await statuses(1, '/api/v1/tiers', 'good')).toEqual([200]);
    await statuses(30, '/api/v1/tiers', 'bad');
    expect(asked).toBeLessThan(25);
    expect(await statuses(1, '/api/v1/tiers', 'good')).toEqual([429]);
    await toy.close();
  });

  test('X-Forwarded-For counts only from a trusted proxy', async () => {
    const statuses = async (trustedProxies: string[]) => {
      const toy = await startToy({}, { rates: { perAddress: 1 }, config: { corsOrigins: [], trustedProxies } });
      const all = [];
      for (const client of ['9.9.9.9', '8.8.8.8', '9.9.9.9'])
        all.push((await toy.get('/open', { headers: { 'X-Forwarded-For': client } })).status);
      await toy.close();
      return all;
    };
    expect(await statuses([])).toEqual([200, 429, 429]);
    expect(await statuses(['127.0.0.0/8'])).toEqual([200, 200, 429]);
  });
});

describe('the address of a client', () => {
  const address = new ClientAddress(['10.0.0.0/8', '::1']);
  test.each([
    ['10.0.0.1', '1.1.1.1, 2.2.2.2, 10.0.0.9', '2.2.2.2'],
    ['::ffff:10.0.0.1', '1.1.1.1', '1.1.1.1'],
    ['::1', '10.0.0.2', '10.0.0.2'],
    ['3.3.3.3', '1.1.1.1', '3.3.3.3'],
    ['10.0.0.1', 'nonsense', '10.0.0.1'],
    ['10.0.0.1', '1.1.1.1, nonsense', '10.0.0.1'],
    ['10.0.0.1', undefined, '10.0.0.1'],
  ])('%s forwarding for %s is %s', (remote, forwarded, expected) => {
    expect(address.of(remote, forwarded)).toBe(expected);
  });

  test.each([
    ['1.2.3.4', '1.2.3.4'],
    ['::ffff:1.2.3.4', '1.2.3.4'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:DB8::1', '2001:db8:0:0'],
    ['::1', '0:0:0:0'],
    ['fe80::1%eth0', 'fe80:0:0:0'],
  ])('%s is counted as %s', (ip, network) => {
    expect(networkOf(ip)).toBe(network);
  });

  test('what is not an address is refused at start', () => {
    expect(() => new ClientAddress(['proxy.example'])).toThrow('proxy.example');
  });
});

test('a hundred thousand addresses cost bounded memory, and a limit still holds for those known before', async () => {
  const limits = new RateLimits({ perKey: () => undefined, perAddress: 2, remembered: 5_000 });
  await limits.ofAddress('9.9.9.9');
  await limits.ofAddress('9.9.9.9');
  const before = process.memoryUsage().heapUsed;
  let refused = 0;
  for (let i = 0; i < 100_000; i++) {
    const { allowed } = await limits.ofAddress(`${i >> 16}.${(i >> 8) & 255}.${i & 255}.7`);
    if (!allowed) refused++;
  }
  expect((process.memoryUsage().heapUsed - before) / 1e6).toBeLessThan(60);
  expect(refused).toBeGreaterThan(90_000);
  expect((await limits.ofAddress('9.9.9.9')).allowed).toBe(false);
});
