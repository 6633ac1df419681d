import type { Bench } from './support/bench.js';
import { Berth, type DatabaseKind } from './support/berth.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';

const TEXT_CHARS = 15_000;
const TOOLS = 20;

/** What it takes to show what an agent's next turn sends: beside a ping, which asks the same gateway for next to nothing. */
export const context: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url });
    reports.push(await measure(berth, kind, scaled(400)));
    await scope.close();
  }
  return reports;
};

async function measure(berth: Berth, kind: DatabaseKind, rounds: number): Promise<Report> {
  const user = await berth.user('bench');
  const base = `/api/v1/users/${user.id}`;
  const get = (what: string) => berth.call('GET', `${base}/agents/${what}`, user.key);
  await berth.call('POST', `${base}/agents`, user.key, [
    { name: 'small', model: 'demo/echo' },
    { name: 'large', model: 'demo/echo' },
  ]);
  const text = 'The quick brown fox jumps over the lazy dog, as it does each day. '.repeat(TEXT_CHARS / 66);
  await berth.call('PUT', `${base}/agents/large/templates`, user.key, { 'SOUL.md': text, 'AGENTS.md': text });
  await berth.call('POST', `${base}/plugins`, user.key, {
    name: 'many',
    tools: Array.from({ length: TOOLS }, (_, i) => toolOf(i)),
  });
  await berth.call('PUT', `${base}/agents/large/plugins`, user.key, { plugin_ids: ['many'] });
  const first = performance.now();
  const { tokens } = await get('large/context');
  const firstMs = performance.now() - first;
  const [ping, small, large, assembled] = [new Times(), new Times(), new Times(), new Times()];
  const sides = [
    [ping, 'large/ping'],
    [small, 'small/context'],
    [large, 'large/context'],
    [assembled, 'large/assembled-context'],
  ] as const;
  for (let round = -Math.ceil(rounds / 5); round < rounds; round++) {
    for (const [times, what] of sides) {
      const began = performance.now();
      await get(what);
      if (round >= 0) times.add(performance.now() - began);
    }
  }
  return {
    title: `the context of an agent (${kind})`,
    rows: [
      rowOf('a ping', ping),
      rowOf('context, as agents come', small),
      rowOf(`context of ${tokens.total} tokens`, large),
      rowOf('assembled-context of the same', assembled),
      addedRow('added to a ping by the small one', ping, small),
      addedRow('added to a ping by the large one', ping, large),
      { what: 'the first one, which waits for the agent and loads the encoding', n: 1, value: `${firstMs.toFixed(0)} ms` },
    ],
    verdicts: [],
    notes: [`tokens were counted by ${tokens.encoding}`],
  };
}

function toolOf(i: number) {
  const properties = Object.fromEntries(
    ['place', 'unit', 'days'].map((name) => [name, { type: 'string', description: `The ${name}.` }]),
  );
  return {
    name: `tool_${i}`,
    description: `Does the ${i}th thing that somebody may want done.`,
    parameters: { type: 'object', properties },
    command: 'cat',
  };
}
