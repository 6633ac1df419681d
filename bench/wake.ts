import type pg from 'pg';
import { BareInstance, IMAGE } from './support/bare.js';
import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { noteStages, wordOf } from './support/first-word.js';
import { addedRow, rowOf, Times } from './support/measure.js';
import { restAll } from './support/rest.js';
import { makeFolder } from './support/world.js';

/** What a wake may add to what the engine takes. */
const ADDED_MS = 30;

/**
 * From the chat to its first word, with an agent that is awake, paused, and stopped, against the bare engine: unpause or start of a container of
 * the same image and options, until its gateway has answered a first call. A wake is what a chat takes longer for it than with an agent that is awake.
 * On Postgres, where the rest of a deployment can be wished from beside.
 */
export const wake: Bench = async ({ scope, scaled, databases }) => {
  const url = (await databases()).find(({ kind }) => kind === 'postgres')?.url;
  if (url === undefined) return [];
  const berth = await Berth.start(scope, { runtime: 'docker', postgres: url, env: { AGENT_IMAGE: IMAGE } });
  const client = await berth.lookInto(scope);
  const user = await berth.user('bench');
  await berth.call('POST', `/api/v1/users/${user.id}/agents`, user.key, {
    name: 'a',
    model: 'demo/echo',
    isolation: 'dedicated',
  });
  const bare = await BareInstance.prepare(scope, await makeFolder(scope));
  await bare.create();
  await bare.start();
  await wordOf(berth, user, 'a');

  const [awake, unpause, start] = [new Times(), new Times(), new Times()];
  const [paused, stopped] = [new Times(), new Times()];
  const stages = new Map<string, Times>();
  for (let i = 0; i <= scaled(20); i++) {
    const round = [
      await wordOf(berth, user, 'a'),
      await bareWake(bare, 'paused'),
      await berthWake(berth, client, user, 'paused'),
      await bareWake(bare, 'stopped'),
      await berthWake(berth, client, user, 'stopped'),
    ];
    // The first of each finds cold caches.
    if (i === 0) continue;
    await noteStages(berth, user, 'a', stages);
    [awake, unpause, paused, start, stopped].forEach((times, at) => times.add(round[at] ?? NaN));
  }
  const verdictOf = (what: string, floor: Times, mine: Times) => ({
    what: `${what}: a wake, that is the first word less that of an agent that is awake, over the bare engine, p50`,
    value: mine.p50 - awake.p50 - floor.p50,
    unit: 'ms',
    atMost: ADDED_MS,
  });
  return [
    {
      title: 'wake: chat to first streamed word (postgres)',
      rows: [
        rowOf('Berth: awake', awake),
        rowOf('bare engine: unpause, a call answered', unpause),
        rowOf('Berth: paused', paused),
        addedRow('added', unpause, paused),
        rowOf('bare engine: start, first call answered', start),
        rowOf('Berth: stopped', stopped),
        addedRow('added', start, stopped),
        ...[...stages].map(([stage, times]) => rowOf(`of which ${stage}`, times)),
      ],
      verdicts: [verdictOf('paused', unpause, paused), verdictOf('stopped', start, stopped)],
      notes: [
        'The lines of Berth, and what it adds, have the turn in them, which "awake" shows alone. A first turn of a start is slower than that.',
      ],
    },
  ];
};

async function bareWake(bare: BareInstance, from: 'paused' | 'stopped'): Promise<number> {
  await (from === 'paused' ? bare.pause() : bare.stop());
  const began = performance.now();
  await (from === 'paused' ? bare.unpause() : bare.start());
  return performance.now() - began;
}

async function berthWake(berth: Berth, client: pg.Client, user: { id: string; key: string }, rest: 'paused' | 'stopped') {
  await restAll(berth, client, user, rest);
  return wordOf(berth, user, 'a');
}
