import { randomBytes } from 'node:crypto';
import type { Bench } from './support/bench.js';
import { Berth, type DatabaseKind } from './support/berth.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';

const LIVE_WITHIN_MS = 2_000;

/** What a changed secret costs until the agent's shell has it: beside a turn with the same shell call that nothing changed before. */
export const secrets: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const berth = await Berth.start(scope, { runtime: 'docker', postgres: url });
    reports.push(await measure(berth, kind, scaled(200)));
    await scope.close();
  }
  return reports;
};

async function measure(berth: Berth, kind: DatabaseKind, rounds: number): Promise<Report> {
  const user = await berth.user('bench');
  const base = `/api/v1/users/${user.id}`;
  await berth.call('POST', `${base}/agents`, user.key, { name: 'agent', model: 'demo/echo' });
  const said = { messages: [{ role: 'user', content: `/tool shell ${JSON.stringify({ command: 'printf %s "$CANARY"' })}` }] };
  const turn = async (): Promise<string> => (await berth.call('POST', `${base}/agents/agent/chat`, user.key, said)).message;
  const [alone, written, both, live] = [new Times(), new Times(), new Times(), new Times()];
  // The first rounds wait for the agent, and warm both sides up.
  const warm = Math.ceil(rounds / 5);
  for (let round = -warm; round < rounds; round++) {
    const began = performance.now();
    await turn();
    const asked = performance.now();
    const value = randomBytes(12).toString('hex');
    await berth.call('PUT', `${base}/secrets`, user.key, { CANARY: value });
    const put = performance.now();
    if (!(await turn()).includes(value)) throw new Error('the turn after the change did not have it');
    const ended = performance.now();
    if (round < 0) continue;
    alone.add(asked - began);
    written.add(put - asked);
    both.add(ended - asked);
    live.add(ended - put);
  }
  return {
    title: `a secret changes, and the agent's shell prints it (${kind}, docker)`,
    rows: [
      rowOf('a turn with the shell call alone', alone),
      rowOf('the change alone', written),
      rowOf('the change and the turn', both),
      addedRow('added to a turn', alone, both),
      rowOf('from the answer of the change to the printed value', live),
    ],
    verdicts: [{ what: 'a changed secret is live, p99', value: live.p99, unit: 'ms', atMost: LIVE_WITHIN_MS }],
    notes: ['every next turn was seen to have the change'],
  };
}
