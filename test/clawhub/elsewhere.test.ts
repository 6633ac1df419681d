import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { canSplit, Internet } from '../link/internet.js';

// Where a registry may send Berth, tried in a network namespace whose only way leads to a small internet with public and forbidden addresses.

let internet: Internet;
let child: ChildProcess;

beforeAll(async () => {
  if (!canSplit) return;
  internet = await Internet.start();
  const env = { NODE_EXTRA_CA_CERTS: path.join(internet.dir, 'cert.pem') };
  child = internet.run(path.resolve('test/clawhub/elsewhere-child.ts'), ['93.184.217.0/24'], env);
  await once(child, 'message');
}, 60_000);
afterAll(() => internet?.stop());

/** What comes of being sent there, from the registry at `base` (on loopback unless told). */
async function sent(to: string, base?: string): Promise<string> {
  child.send({ to, ...(base === undefined ? {} : { base }) });
  const [answer] = (await once(child, 'message')) as [string];
  return answer;
}

describe.skipIf(!canSplit)('a registry that sends us elsewhere', () => {
  test('reaches public places, plain and over TLS, by the names they have', async () => {
    expect(await sent('http://site.test/there')).toMatch(/^200 .*"url":"\/there"/);
    expect(await sent('https://site.test/there')).toMatch(/^200 .*"url":"\/there"/);
    expect(await sent('http://mixed.test/there')).toMatch(/^200 /);
    expect(await sent('http://site.test/redirect?to=http%3A%2F%2Fother.test%2Fthere')).toMatch(/^200 .*"url":"\/there"/);
    expect(internet.wrong()).toEqual([]);
  });

  test.each([
    'private.test',
    'metadata.test',
    'cgnat.test',
    'loopback.test',
    'mapped.test',
    'nat64.test',
    'sixtofour.test',
    'self.test',
    'anyip.test',
    'denied.test',
    '45.33.1.1',
    '[::ffff:10.0.0.5]',
    '0x0a000005',
    '167772165',
  ])('reaches nothing at %s, by one hop or by two', async (host) => {
    expect(await sent(`http://${host}/x`)).toBe('upstream_error the registry sends us to an address that is not public');
    const twice = `http://site.test/redirect?to=${encodeURIComponent(`http://${host}/x`)}`;
    expect(await sent(twice)).toBe('upstream_error the registry sends us to an address that is not public');
    expect(internet.wrong()).toEqual([]);
  });

  test('dials what was checked, whatever the name says the next moment', async () => {
    const answers = [await sent('http://rebind.test/a'), await sent('http://rebind.test/b')];
    expect(answers[0]).toMatch(/^200 /);
    expect(answers[1]).toBe('upstream_error the registry sends us to an address that is not public');
    expect(internet.wrong()).toEqual([]);
  });

  test('needs a certificate that fits, does not leave TLS, and names what is away', async () => {
    expect(await sent('https://other.test/x')).toBe('upstream_error the registry has no valid TLS');
    expect(await sent('https://site.test/x', 'https://site.test')).toMatch(/^200 /);
    expect(await sent('https://site.test/redirect?to=http%3A%2F%2Fsite.test%2Fx', 'https://site.test')).toBe(
      'upstream_error the registry sends us to an address without TLS',
    );
    expect(await sent('https://other.test/x', 'https://other.test')).toBe('upstream_error the registry has no valid TLS');
    expect(await sent('http://none.test/x')).toBe('unavailable the address that the registry sends us to cannot be reached');
    expect(await sent('http://slow.test/x')).toBe('unavailable the address that the registry sends us to cannot be reached');
    expect(internet.wrong()).toEqual([]);
  });
});

/** What comes of a webhook that is posted there. */
async function posted(to: string): Promise<string> {
  child.send({ to, post: true });
  const [answer] = (await once(child, 'message')) as [string];
  return answer;
}

describe.skipIf(!canSplit)('a webhook', () => {
  test('reaches public places, and is not taken along by a redirect', async () => {
    expect(await posted('https://site.test/there')).toMatch(/^200 /);
    expect(await posted('http://mixed.test/there')).toMatch(/^200 /);
    expect(await posted(`http://site.test/redirect?to=${encodeURIComponent('http://10.0.0.5/')}`)).toMatch(/^302 /);
    expect(await posted('https://other.test/there')).toMatch(/^upstream_error .*(certificate|altnames)/i);
    expect(internet.wrong()).toEqual([]);
  });

  test.each([
    'private.test',
    'metadata.test',
    'cgnat.test',
    'loopback.test',
    'mapped.test',
    'nat64.test',
    'sixtofour.test',
    'self.test',
    'anyip.test',
    'denied.test',
    '45.33.1.1',
    '[::ffff:10.0.0.5]',
    '0x0a000005',
  ])('reaches nothing at %s', async (host) => {
    expect(await posted(`http://${host}/x`)).toMatch(/^forbidden /);
    expect(internet.wrong()).toEqual([]);
  });
});
