import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { makeRedactor } from '../../src/domains/secrets/redactor.js';

const VALUE = 'pa$$ wörd/with?odd+signs&0815';
const redact = await makeRedactor([
  { name: 'ODD', value: VALUE },
  { name: 'SHORT', value: 'sixsix' },
  { name: 'FIVE', value: 'five5' },
  { name: 'LONGER', value: 'sixsixAndMore' },
  { name: 'JSON', value: '{"private_key": "a\\nb", "q": "\u{1F511}"}' },
  { name: 'PEM', value: '-----BEGIN X-----\nMIIEvQIBADANBgkqhkiG9w0\nQGZl4K8A\n}\n-----END X-----\n' },
]);

describe('redaction of secrets', () => {
  test.each([
    ['as it is', `the value is ${VALUE}!`, 'the value is [secret ODD]!'],
    ['several', `${VALUE} sixsix ${VALUE}`, '[secret ODD] [secret SHORT] [secret ODD]'],
    ['the longest of two', 'x sixsixAndMore x', 'x [secret LONGER] x'],
    ['the same twice in a row', 'sixsixsixsix', '[secret SHORT]'],
    ['of five characters is left', 'five5', 'five5'],
    ['in a URL', `https://x/?p=${encodeURIComponent(VALUE)}&a=1`, 'https://x/?p=[secret ODD]&a=1'],
    ['in a URL, in small digits', encodeURIComponent(VALUE).replaceAll(/%../g, (c) => c.toLowerCase()), '[secret ODD]'],
    ['in a form', `p=${encodeURIComponent(VALUE).replaceAll('%20', '+')}`, 'p=[secret ODD]'],
    ['by Python’s quote', encodeURIComponent(VALUE).replaceAll('%2F', '/'), '[secret ODD]'],
    ['in JSON', JSON.stringify({ v: '{"private_key": "a\\nb", "q": "\u{1F511}"}' }), '{"v":"[secret JSON]"}'],
    ['a line of it', '  MIIEvQIBADANBgkqhkiG9w0', '  [secret PEM]'],
    ['no line that says nothing', '}', '}'],
    ['empty', '', ''],
    ['none', 'a line of no interest', 'a line of no interest'],
  ])('%s', (_, text, expected) => {
    expect(redact(text)).toBe(expected);
  });

  test.each([0, 1, 2, 3, 4, 5])('in base64 of a text that begins %i bytes before it', (before) => {
    for (const after of ['', 'x', 'xy', 'xyz']) {
      const text = `${'u'.repeat(before)}${VALUE}${after}`;
      for (const encoding of ['base64', 'base64url'] as const) {
        const said = redact(`Basic ${Buffer.from(text).toString(encoding)}`);
        expect(said).toContain('[secret ODD]');
        // What is left of it are bits of the bytes beside it.
        expect(said.replace('[secret ODD]', '').length, said).toBeLessThan('Basic '.length + Math.ceil((before * 4) / 3) + 12);
      }
    }
  });

  test('of a value that was wrapped, or cut', async () => {
    const value = randomBytes(300).toString('hex');
    const long = await makeRedactor([{ name: 'LONG', value }]);
    const wrapped = Buffer.from(value).toString('base64').replaceAll(/.{76}/g, '$&\n');
    for (const line of wrapped.split('\n').slice(0, -1)) expect(long(line)).toMatch(/^.{0,4}\[secret LONG\].{0,4}$/);
    expect(long(value.slice(0, 100))).toMatch(/^\[secret LONG\].{0,3}$/);
    expect(long(value.slice(57, 200))).toMatch(/^.{0,3}\[secret LONG\].{0,3}$/);
  });

  test('finds random secrets in random texts, whole and nothing else', async () => {
    for (let round = 0; round < 200; round++) {
      const values = Array.from({ length: 5 }, (_, n) => ({
        name: `S${n}`,
        value: randomBytes(3 + Math.floor(Math.random() * 40)).toString('hex'),
      }));
      const one = values[round % 5]!;
      const [left, right] = [randomBytes(20).toString('base64url'), randomBytes(20).toString('base64url')];
      expect((await makeRedactor(values))(`${left} ${one.value} ${right}`)).toBe(`${left} [secret ${one.name}] ${right}`);
    }
  });

  test.each<[string, string[], string]>([
    ['a value of one letter', ['a'.repeat(65_000)], 'a'],
    ['values that are prefixes of one another', Array.from({ length: 200 }, (_, n) => 'a'.repeat(6 + n)), 'a'],
    ['values that differ in their last letter', Array.from({ length: 200 }, (_, n) => `${'a'.repeat(400)}${n}`), 'a'],
    ['beginnings of values', Array.from({ length: 200 }, (_, n) => `aaaaaa${n}bcdefghijklmn`), 'aaaaaa9'],
    ['as much as a user may have', Array.from({ length: 33 }, () => randomBytes(32_000).toString('hex')), 'deadbeef01'],
  ])('a line made of %s takes little time', async (_, values, piece) => {
    const hostile = await makeRedactor(values.map((value, n) => ({ name: `N${n}`, value })));
    const text = piece.repeat(Math.ceil(16_384 / piece.length));
    hostile(text);
    const begun = performance.now();
    for (let i = 0; i < 5; i++) hostile(text);
    expect((performance.now() - begun) / 5).toBeLessThan(250);
  });
});
