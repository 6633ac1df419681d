import { describe, expect, test } from 'vitest';
import { checkPolicy, type EgressPolicy, parseTarget } from '../../src/link/policy.js';
import { addressRefusal, normalHost, parseDenied, resolveChecked } from '../../src/link/resolve.js';

describe('targets', () => {
  test.each([
    ['Example.COM:443', { host: 'example.com', port: 443 }],
    ['example.com.:80', { host: 'example.com', port: 80 }],
    ['1.2.3.4:8080', { host: '1.2.3.4', port: 8080 }],
    ['[2606:4700::1]:443', { host: '2606:4700::1', port: 443 }],
    ['a_b.example:1', { host: 'a_b.example', port: 1 }],
  ])('%s is understood', (text, target) => {
    expect(parseTarget(text)).toEqual(target);
  });

  test.each([
    '',
    ':80',
    'a',
    'a:',
    'a:0',
    'a:65536',
    'a:-1',
    'a:1e2',
    'a b:80',
    'a\t:80',
    'ä.example:80',
    'a%2eb:80',
    '[1.2.3.4]:80',
    '[a]:80',
    '1.2.3:80',
    'a.1:80',
    'a.0x1:80',
    'http://a:80',
    'a/b:80',
    '.a:80',
    'a..:80',
  ])('%j is not a target', (text) => {
    expect(() => parseTarget(text)).toThrow(/host:port/);
  });
});

describe('policies', () => {
  const hosts: EgressPolicy = { mode: 'allowlist', hosts: ['Exact.example', '*.under.example', '1.1.1.1', '*.1.1.1'] };
  test.each([
    ['exact.example', true],
    ['a.under.example', true],
    ['a.b.under.example', true],
    ['under.example', false],
    ['xunder.example', false],
    ['sub.exact.example', false],
    ['1.1.1.1', true],
    ['2.1.1.1', false],
  ])('a list of hosts: %s is allowed: %s', (host, isAllowed) => {
    const check = () => checkPolicy(hosts, { host, port: 443 });
    if (isAllowed) expect(check).not.toThrow();
    else expect(check).toThrow(/not among/);
  });

  test('ports are 80 and 443 unless listed', () => {
    expect(() => checkPolicy({ mode: 'open' }, { host: 'a.example', port: 22 })).toThrow(/port 22/);
    expect(() => checkPolicy({ mode: 'open', ports: [22] }, { host: 'a.example', port: 22 })).not.toThrow();
    expect(() => checkPolicy({ mode: 'open', ports: [22] }, { host: 'a.example', port: 443 })).toThrow(/port 443/);
    expect(() => checkPolicy({ mode: 'none' }, { host: 'a.example', port: 443 })).toThrow(/no way out/);
  });
});

test('addresses are refused for what they are, and by the operator', async () => {
  const deny = parseDenied(['8.8.8.8', '9.0.0.0/8', '2606:4700::/32']);
  expect(addressRefusal('8.8.4.4', deny)).toBeUndefined();
  expect(addressRefusal('8.8.8.8', deny)).toMatch(/operator/);
  expect(addressRefusal('9.9.9.9', deny)).toMatch(/operator/);
  expect(addressRefusal('2606:4700::1', deny)).toMatch(/operator/);
  expect(addressRefusal('127.0.0.1', deny)).toMatch(/loopback/);
  expect(await resolveChecked('8.8.4.4')).toEqual([{ address: '8.8.4.4', family: 4 }]);
  await expect(resolveChecked('10.1.1.1')).rejects.toMatchObject({ code: 'forbidden' });
  await expect(resolveChecked('127.1')).rejects.toMatchObject({ code: 'invalid_request' });
  expect(normalHost('fe80::1%eth0')).toBeUndefined();
});
