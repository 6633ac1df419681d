import type { Bench } from './support/bench.js';
import { Berth, type DatabaseKind } from './support/berth.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';

/** What a changed template costs until the next turn has it: beside a turn that nothing changed before. */
export const templates: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url });
    reports.push(await measure(berth, kind, scaled(300)));
    await scope.close();
  }
  return reports;
};

async function measure(berth: Berth, kind: DatabaseKind, rounds: number): Promise<Report> {
  const user = await berth.user('bench');
  const base = `/api/v1/users/${user.id}/agents`;
  await berth.call('POST', base, user.key, { name: 'agent', model: 'demo/echo' });
  const said = { messages: [{ role: 'user', content: '/system' }] };
  const turn = async (): Promise<string> => (await berth.call('POST', `${base}/agent/chat`, user.key, said)).message;
  const [alone, written, both] = [new Times(), new Times(), new Times()];
  // The first rounds wait for the agent, and warm both sides up.
  const warm = Math.ceil(rounds / 5);
  for (let round = -warm; round < rounds; round++) {
    const began = performance.now();
    await turn();
    const asked = performance.now();
    const text = `Change ${round + warm}.`;
    await berth.call('PUT', `${base}/agent/templates`, user.key, { 'SOUL.md': text });
    const put = performance.now();
    if (!(await turn()).includes(text)) throw new Error(`the turn after "${text}" did not have it`);
    const ended = performance.now();
    if (round < 0) continue;
    alone.add(asked - began);
    written.add(put - asked);
    both.add(ended - asked);
  }
  return {
    title: `a template is written, and the next turn uses it (${kind})`,
    rows: [
      rowOf('a turn alone', alone),
      rowOf('the write alone', written),
      rowOf('the write and the next turn', both),
      addedRow('added to a turn', alone, both),
    ],
    verdicts: [],
    notes: ['every next turn was seen to have the change'],
  };
}
