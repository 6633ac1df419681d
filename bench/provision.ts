import { BareInstance, IMAGE } from './support/bare.js';
import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { firstWord } from './support/first-word.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { makeFolder } from './support/world.js';

/**
 * From the request for an agent to the first word it streams, against the bare engine: create and start of a container with the
 * very same options, until its gateway has dialled and answered a first call.
 */
export const provision: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const folder = await makeFolder(scope);
    const berth = await Berth.start(scope, { runtime: 'docker', postgres: url, env: { AGENT_IMAGE: IMAGE } });
    const user = await berth.user('bench');
    const [floor, mine, api] = [new Times(), new Times(), new Times()];
    const stages = new Map<string, Times>();
    for (let i = 0; i <= scaled(20); i++) {
      const bareMs = await bareStart(scope, folder);
      const made = await firstWord(berth, user, `agent${i}`, stages);
      // The first of both finds cold caches.
      if (i === 0) continue;
      floor.add(bareMs);
      mine.add(made.wordMs);
      api.add(made.answerMs);
    }
    reports.push({
      title: `provision: POST agent to first streamed word (${kind})`,
      rows: [
        rowOf('bare engine: create, start, first call answered', floor),
        rowOf('Berth: agent made (202)', api),
        rowOf('Berth: first word', mine),
        addedRow('added', floor, mine),
        ...[...stages].map(([stage, times]) => rowOf(`of which ${stage}`, times)),
      ],
      verdicts: [{ what: 'first word after the bare engine is ready, p50', value: mine.p50 - floor.p50, unit: 'ms', atMost: 60 }],
      notes: [],
    });
    await scope.close();
  }
  return reports;
};

/** Milliseconds that the engine alone takes. */
export async function bareStart(scope: Scope, folder: string): Promise<number> {
  const bare = await BareInstance.prepare(scope, folder);
  const began = performance.now();
  await bare.create();
  await bare.start();
  const tookMs = performance.now() - began;
  await bare.remove();
  return tookMs;
}
