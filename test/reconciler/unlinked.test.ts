import { expect, test } from 'vitest';
import { Unlinked } from '../../src/reconciler/unlinked.js';

test('counts how long a link is away, from the last time it was there', () => {
  let now = 0;
  const unlinked = new Unlinked(() => now);
  expect(unlinked.look('a', false)).toBe(0);
  now = 10_000;
  expect(unlinked.look('a', false)).toBe(10_000);
  expect(unlinked.look('a', true)).toBe(0);
  now = 12_000;
  expect(unlinked.look('a', false)).toBe(0);
});

test('a link that another process saw in between was not away all the time', () => {
  let now = 0;
  const unlinked = new Unlinked(() => now);
  unlinked.look('a', false);
  now = 3_600_000;
  expect(unlinked.look('a', false)).toBe(0);
});

test('holds nothing of instances that are no more', () => {
  let now = 0;
  const unlinked = new Unlinked(() => now);
  for (let n = 0; n < 100; n++) unlinked.look(`ins_${n}`, false);
  now = 60_000;
  unlinked.look('ins_other', false);
  expect(unlinked.size).toBe(1);
});
