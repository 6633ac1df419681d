import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { addedRow, type Report, rowOf } from './support/measure.js';
import { alternate } from './support/streams.js';
import { makeFolder, startUpstream } from './support/world.js';

const CONCURRENT = 10;
const WORDS = 400;

/**
 * What it costs to write down what turns say as they say it: streams that can be resumed against those that cannot, of the same agents, in turn. A
 * long answer at once, which is as much as there can be to write.
 */
export const journal: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const { port } = await startUpstream(scope, await makeFolder(scope));
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url, upstreamPort: port });
    const plain = await berth.agents(2);
    const kept = plain.map((agent) => agent.resumable());
    const load = { concurrency: CONCURRENT, words: WORDS, gapMs: 0 };
    await alternate([plain, kept], { ...load, turns: scaled(4), rounds: 2 });
    const [floor, mine] = await alternate([plain, kept], { ...load, turns: scaled(6), rounds: 8 });
    if (!floor || !mine) throw new Error('nothing was measured');
    reports.push({
      title: `journal, ${CONCURRENT} concurrent, ${WORDS} words at once (${kind})`,
      rows: [
        rowOf('whole turn, not resumable', floor.whole, floor.perS),
        rowOf('whole turn, resumable', mine.whole, mine.perS),
        rowOf('first word, not resumable', floor.first),
        rowOf('first word, resumable', mine.first),
        addedRow('first word, added', floor.first, mine.first),
        { what: 'processor time a turn, not resumable', n: floor.whole.n, value: `${floor.cpuMsEach.toFixed(2)} ms` },
        { what: 'processor time a turn, resumable', n: mine.whole.n, value: `${mine.cpuMsEach.toFixed(2)} ms` },
      ],
      verdicts: [
        { what: 'words/s of resumable streams, of those that are not', value: mine.perS / floor.perS, unit: '', atLeast: 0.9 },
      ],
      notes: [],
    });
    await scope.close();
  }
  return reports;
};
