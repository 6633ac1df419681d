import { expect, test } from 'vitest';
import { hidden, spellings } from '../../agent-image/src/redaction.js';

const secret = 'p@ss w0rd/+=é"\n!';
const forms = spellings([secret, 'abc', '  ']);

test.each([
  ['as it is', secret],
  ['in JSON', JSON.stringify(secret).slice(1, -1)],
  ['in a URL', encodeURIComponent(secret)],
  ['in a URL, strictly', encodeURIComponent(secret).replace('!', '%21')],
  ['in a URL, in small letters', encodeURIComponent(secret).replace(/%../g, (escape) => escape.toLowerCase())],
  ['in a form', new URLSearchParams({ a: secret }).toString().slice(2)],
  ['in base64', Buffer.from(secret).toString('base64')],
  ['in base64 for URLs', Buffer.from(secret).toString('base64url')],
])('a value is taken out %s', (_where, form) => {
  expect(hidden(`before ${form} after`, forms)).toBe('before [redacted] after');
});

test.each(['', 'u', 'us', 'user:'])('a value is taken out of the base64 of a longer text that begins with "%s"', (prefix) => {
  const text = hidden(Buffer.from(`${prefix}${secret} and more`).toString('base64'), forms);
  expect(text).toContain('[redacted]');
  const left = text.split('[redacted]').map((part) => Buffer.from(part, 'base64').toString());
  expect(left.join('')).not.toContain('w0rd');
});

test('words too short to be a secret stay', () => {
  expect(hidden('abc or not', forms)).toBe('abc or not');
});
