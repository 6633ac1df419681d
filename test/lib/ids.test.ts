import { expect, test } from 'vitest';
import { isId, newId } from '../../src/lib/ids.js';

test('ids sort in the order they were made, those of one millisecond too', () => {
  const ids = [1_000, 1_000, 1_000, 1_001, 2_000, 2_000].flatMap((ms) => Array.from({ length: 500 }, () => newId('ntd', ms)));
  expect(ids).toEqual(ids.toSorted());
  expect(new Set(ids).size).toBe(ids.length);
  for (const id of ids) expect(isId('ntd', id)).toBe(true);
});

test('an id of another millisecond says nothing of the last one', () => {
  const random = (ms: number) => newId('ntd', ms).slice(-16);
  const made = Array.from({ length: 200 }, (_, i) => random(5_000 + i));
  expect(new Set(made.map((text) => text.slice(0, 4))).size).toBeGreaterThan(190);
});
