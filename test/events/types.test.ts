import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { sourcesIn } from '../support/sources.js';

/** What is sent when a user wants a test, and what is not written. */
const NO_EVENTS = new Set(['webhook.test', 'notification.test', 'skill.unchanged']);

test('each type of event that the source names is in the docs', () => {
  const told = typesIn(readFileSync(new URL('../../docs/events.md', import.meta.url), 'utf8'));
  const domains = new Set(told.map((type) => type.split('.')[0]));
  const named = sourcesIn('src/domains', 'src/reconciler')
    // Names of variables and of columns look the same.
    .filter(({ path }) => path !== 'src/domains/templates/render.ts' && !path.endsWith('.store.ts'))
    .flatMap(({ text }) => [...text.matchAll(/'([a-z]+\.[a-z_]+)'/g)].map(([, type = '']) => type));
  const types = named.filter((type) => domains.has(type.split('.')[0]) && !NO_EVENTS.has(type));
  expect(types.length).toBeGreaterThan(30);
  expect(types.filter((type) => !told.includes(type))).toEqual([]);
});

/** Those of the first column of the table; one that begins with a dot is of the domain before it. */
function typesIn(docs: string): string[] {
  const cells = [...docs.matchAll(/^\| ((?:`[a-z_.]+`(?:, )?)+) \|/gm)].map(([, cell = '']) => cell);
  return cells.flatMap((cell) => {
    let domain = '';
    return [...cell.matchAll(/`([a-z_.]+)`/g)].map(([, name = '']) => {
      if (name.startsWith('.')) return domain + name;
      domain = name.split('.')[0] ?? '';
      return name;
    });
  });
}
