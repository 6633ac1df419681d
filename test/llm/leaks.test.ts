import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { FakeUpstream, openai } from '../support/fake-upstream.js';
import { call, chatBody, open, startGateway, type Harness } from './gateway-harness.js';
import { PROTOCOLS } from './upstreams.js';

let upstream: FakeUpstream;
let harness: Harness;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  const [protocol] = PROTOCOLS;
  harness = await startGateway(protocol ? [protocol.provider(upstream)] : [], { limits: { concurrentCalls: 100 } });
});
afterEach(async () => {
  await harness.close();
  await upstream.close();
});

/** Handles that keep a process awake: sockets, servers and timers. */
function handles(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

async function inBatches(count: number, width: number, one: (i: number) => Promise<void>): Promise<void> {
  for (let at = 0; at < count; at += width) await Promise.all(Array.from({ length: width }, (_, i) => one(at + i)));
}

it('a thousand streams, read, abandoned, failed or cut, leave nothing behind', async () => {
  const timers = () => handles()['Timeout'] ?? 0;
  const one = async (i: number): Promise<void> => {
    const kind = i % 4;
    if (kind === 1) upstream.script({ pieces: [openai.word('a'), openai.word('b')], after: 'cut' });
    else if (kind === 2) upstream.script(openai.error(500, 'x'));
    else upstream.script(openai.text('one two three four five'));
    if (kind !== 3) return void (await call(harness.url, chatBody('openai/m', 'hi')));
    const response = await open(harness.url, chatBody('openai/m', 'hi'));
    response.on('error', () => undefined);
    response.destroy();
  };
  await inBatches(100, 50, one);
  await vi.waitFor(() => expect(harness.gateway.active).toBe(0));
  const before = timers();
  await inBatches(1000, 50, one);
  await vi.waitFor(() => expect(harness.gateway.active).toBe(0));
  expect(harness.ledger.rows.every((row) => row.outcomes.length === 1)).toBe(true);
  expect(harness.ledger.rows).toHaveLength(1100);
  // Connections to the upstream: only those kept for later calls. Timers: those of the kept connections at most.
  await vi.waitFor(() => expect(upstream.openConnections).toBeLessThanOrEqual(64));
  await vi.waitFor(() => expect(timers()).toBeLessThanOrEqual(before + 64));
});
