import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { IMAGE } from './support/bare.js';
import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { wordOf } from './support/first-word.js';
import { type Report, rowOf, Times } from './support/measure.js';
import { restAll } from './support/rest.js';

const SLEEPING = 100;
const ROUNDS = 5;
/** So many are made at once: more would not fit on the host while they are awake. */
const AT_ONCE = 10;

/** Berth is killed and starts again beside real containers that sleep, half of them paused and half stopped. On Postgres, which is looked into from beside. */
export const restart: Bench = async ({ scope, scaled, databases }) => {
  const url = (await databases()).find(({ kind }) => kind === 'postgres')?.url;
  if (url === undefined) return [];
  const berth = await Berth.start(scope, { runtime: 'docker', postgres: url, env: { AGENT_IMAGE: IMAGE } });
  const client = await berth.lookInto(scope);
  const sleepers = await makeSleepers(berth, client, scaled(SLEEPING));
  const [healthy, converged, woken] = [new Times(), new Times(), new Times()];
  for (let i = 0; i < scaled(ROUNDS); i++) {
    await untilQuiet(berth, client, sleepers);
    const began = performance.now();
    await berth.startAgain();
    healthy.add(performance.now() - began);
    await untilConverged(berth, client);
    converged.add(performance.now() - began);
    const sleeper = sleepers[i % sleepers.length]!;
    woken.add(await wordOf(berth, sleeper, 'a0'));
    await restAll(berth, client, sleeper, sleeper.rest);
  }
  const report: Report = {
    title: `Berth starts again beside ${scaled(SLEEPING)} containers that sleep (docker, postgres)`,
    rows: [
      rowOf('from the start until it answers', healthy),
      rowOf('from the start until nothing is left to do', converged),
      rowOf('then, from a chat to its first word', woken),
    ],
    verdicts: [{ what: 'from the start until nothing is left to do, p50', value: converged.p50, unit: 'ms', atMost: 3_000 }],
    notes: [],
  };
  return [report];
};

type Sleeper = { id: string; key: string; rest: 'paused' | 'stopped' };

async function makeSleepers(berth: Berth, client: pg.Client, count: number): Promise<Sleeper[]> {
  const sleepers: Sleeper[] = [];
  for (let made = 0; made < count; made += AT_ONCE) {
    const rest = sleepers.length % 2 === 0 ? 'paused' : 'stopped';
    const user = { ...(await berth.user(`sleeper${made}`)), rest } as const;
    const wishes = Array.from({ length: Math.min(AT_ONCE, count - made) }, (_, n) => ({
      name: `a${n}`,
      model: 'demo/echo',
      isolation: 'dedicated',
    }));
    await berth.call('POST', `/api/v1/users/${user.id}/agents`, user.key, wishes);
    await berth.child.until(async () => {
      const status = await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key);
      return status.settled === true || undefined;
    }, 300_000);
    await restAll(berth, client, user, rest);
    sleepers.push(user);
  }
  return sleepers;
}

/** What was used within the last seconds is woken once more, and a lease that dies with its process has to run out: neither is to be measured. */
async function untilQuiet(berth: Berth, client: pg.Client, sleepers: Sleeper[]): Promise<void> {
  for (let quietS = 0; quietS < 5; quietS++) {
    if (!(await isConverged(berth, client))) quietS = 0;
    for (const sleeper of sleepers) await restAll(berth, client, sleeper, sleeper.rest);
    await sleep(1_000);
  }
}

async function untilConverged(berth: Berth, client: pg.Client): Promise<void> {
  await berth.child.until(async () => (await isConverged(berth, client)) || undefined);
}

/** Whether it is ready, no deployment is due or worked on, and each sleeps. */
async function isConverged(berth: Berth, client: pg.Client): Promise<boolean> {
  const { rows } = await client.query(
    `select count(*) filter (where due_at <= now() or lease_until > now() or state <> 'asleep') as busy from deployments`,
  );
  return Number(rows[0].busy) === 0 && (await fetch(`${berth.url}/ready`)).ok;
}
