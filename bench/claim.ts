import type pg from 'pg';
import { bareStart } from './provision.js';
import { IMAGE } from './support/bare.js';
import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { firstWord } from './support/first-word.js';
import { addedRow, rowOf, Times } from './support/measure.js';
import { makeFolder } from './support/world.js';

const POOL_SIZE = 3;

/**
 * From the request for an agent to the first word it streams, out of a full pool and without one, in turn, in the same run. On Postgres, where it
 * can be seen from beside whether the pool is full.
 */
export const claim: Bench = async ({ scope, scaled, databases }) => {
  const url = (await databases()).find(({ kind }) => kind === 'postgres')?.url;
  if (url === undefined) return [];
  const cold = await Berth.start(scope, { runtime: 'docker', postgres: url, env: { AGENT_IMAGE: IMAGE } });
  const warm = await Berth.start(scope, {
    runtime: 'docker',
    postgres: url,
    env: { AGENT_IMAGE: IMAGE, POOL_SIZE: String(POOL_SIZE) },
  });
  const client = await warm.lookInto(scope);
  const folder = await makeFolder(scope);
  // Of the pool's own tier, so that no limit has to change; the other user's limits are other ones.
  const raised = `update tiers set requests_per_minute = 100000000 where name = 'free'`;
  await client.query(raised);
  const made = await warm.call('POST', '/api/v1/users', undefined, { name: 'same', tier: 'free' });
  const users = [await cold.user('bench'), { id: made.id, key: made.api_key }, await warm.user('bench')] as const;
  const series = Array.from({ length: 3 }, () => ({
    word: new Times(),
    answer: new Times(),
    told: new Times(),
    ready: new Times(),
  }));
  const bare = new Times();
  for (let i = 0; i <= scaled(20); i++) {
    const bareMs = await bareStart(scope, folder);
    // The first of each finds cold caches.
    if (i > 0) bare.add(bareMs);
    for (const [at, user] of users.entries()) {
      if (at > 0) await fullPool(warm, client);
      const before = await toldIn(warm);
      const { wordMs, answerMs } = await firstWord(at === 0 ? cold : warm, user, `agent${i}`, new Map());
      if (i === 0) continue;
      series[at]?.word.add(wordMs);
      series[at]?.answer.add(answerMs);
      if (at === 0) continue;
      series[at]?.ready.add(await claimedMs(client, user.id));
      const after = await toldIn(warm);
      series[at]?.told.add(((after.seconds - before.seconds) / (after.count - before.count)) * 1000);
    }
  }
  const [none, same, other] = series as [Series, Series, Series];
  return [
    {
      title: 'claim: POST agent to first streamed word out of a full pool (postgres)',
      rows: [
        rowOf('bare engine: create, start, first call answered', bare),
        rowOf('Berth without a pool: first word', none.word),
        rowOf("out of the pool, the pool's limits: agent made (202)", same.answer),
        rowOf('… of that, its agents told over the link', same.told),
        rowOf('… until it is ready, by the events', same.ready),
        rowOf('… first word', same.word),
        addedRow('… against no pool', none.word, same.word),
        rowOf('out of the pool, other limits, changed live: until it is ready', other.ready),
        rowOf('… first word', other.word),
      ],
      verdicts: [
        { what: "first word out of the pool with the pool's limits, p50", value: same.word.p50, unit: 'ms', atMost: 100 },
        { what: 'identity over the link: its agents told and confirmed, p50', value: same.told.p50, unit: 'ms', atMost: 15 },
        { what: 'first word out of the pool with other limits, p50', value: other.word.p50, unit: 'ms', atMost: 100 },
      ],
      notes: [
        'From the agent to its deployment being ready Berth makes its choice, writes it down and looks at the container, beside telling it.',
        `A pool of ${POOL_SIZE}, full before each claim; what is claimed is made anew meanwhile, on the same cores.`,
      ],
    },
  ];
};

interface Series {
  word: Times;
  answer: Times;
  told: Times;
  ready: Times;
}

/** From the event of the user's last agent to that of its deployment being ready. */
async function claimedMs(client: pg.Client, userId: string): Promise<number> {
  const { rows } = await client.query(
    `select extract(epoch from max(at) filter (where type = 'deployment.ready') - max(at) filter (where type = 'agent.created'))::float8 * 1000 as ms
     from events where user_id = $1`,
    [userId],
  );
  return rows[0].ms;
}

/** How often gateways were told agents since it began, and how long that took in all. */
async function toldIn(berth: Berth): Promise<{ count: number; seconds: number }> {
  const text = await (await fetch(`${berth.url}/metrics`)).text();
  const valueOf = (what: string) =>
    Number(new RegExp(`^berth_gateway_configure_duration_seconds_${what} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
  return { count: valueOf('count'), seconds: valueOf('sum') };
}

async function fullPool(berth: Berth, client: pg.Client): Promise<void> {
  await berth.child.until(async () => {
    const { rows } = await client.query(`select count(*)::int as n from deployments where kind = 'pool' and state = 'ready'`);
    return rows[0].n >= POOL_SIZE ? true : undefined;
  });
}
