import { open } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { type Passage, upload, watched } from './files.js';
import { Berth, type BerthAgent } from './support/berth.js';
import type { Bench } from './support/bench.js';
import type { Report, Row } from './support/measure.js';

const MIB = 1024 * 1024;
const PATIENCE_MS = 600_000;

/** A large state taken, restored and exported, against writing as many bytes to the disk; and what that takes of Berth's memory. */
export const snapshots: Bench = async ({ scope, scaled }) => {
  const mib = scaled(512);
  const berth = await Berth.start(scope, { runtime: 'docker' });
  const [agent] = await berth.agents(1, 'demo/echo');
  if (!agent) throw new Error('there is no agent');
  await upload(agent, mib);
  const floorS = await writeToDisk(join(berth.dataDir, 'floor'), mib);
  const at = `/api/v1/users/bench/agents/${agent.name}`;
  // Once for the code to be warm.
  await ended(berth, `${at}/snapshots`, (await berth.call('POST', `${at}/snapshots`, undefined, {})).id);
  let id = '';
  const taken = await watched(berth, async () => {
    ({ id } = await berth.call('POST', `${at}/snapshots`, undefined, {}));
    await ended(berth, `${at}/snapshots`, id);
  });
  const restored = await watched(berth, async () => {
    const restore = await berth.call('POST', `${at}/snapshots/${id}/restore`, undefined, { keep_current: false });
    await ended(berth, `${at}/restores`, restore.id);
  });
  const exported = await watched(berth, () => download(agent, `/api/v1/users/me/agents/${agent.name}/snapshots/${id}/export`));
  return [report(mib, floorS, { taken, restored, exported })];
};

function report(mib: number, floorS: number, mine: Record<'taken' | 'restored' | 'exported', Passage>): Report {
  const rate = (what: string, seconds: number): Row => ({ what, n: 1, value: `${(mib / seconds).toFixed(0)} MiB/s` });
  const rows = Object.entries(mine).flatMap(([what, { seconds, cpuMs, grownMib }]): Row[] => [
    rate(what, seconds),
    { what: `${what}: processor time of Berth`, n: 1, value: `${((cpuMs / mib) * 1024).toFixed(0)} ms/GiB` },
    { what: `${what}: growth of Berth`, n: 1, value: `${grownMib.toFixed(1)} MiB` },
  ]);
  return {
    title: `a state of ${mib} MiB (docker)`,
    rows: [rate('floor: as many bytes written to the disk, synced', floorS), ...rows],
    verdicts: Object.entries(mine).map(([what, { grownMib }]) => ({
      what: `Berth grows while it is ${what}`,
      value: grownMib,
      unit: 'MiB',
      atMost: 64,
    })),
    notes: [],
  };
}

async function ended(berth: Berth, at: string, id: string): Promise<void> {
  await berth.child.until(async () => {
    const { state, reason } = await berth.call('GET', `${at}/${id}`);
    if (state === 'failed') throw new Error(`it failed: ${reason}`);
    return state === 'pending' ? undefined : true;
  }, PATIENCE_MS);
}

async function writeToDisk(path: string, mib: number): Promise<number> {
  const piece = Buffer.alloc(MIB, 'berth ');
  const began = performance.now();
  const file = await open(path, 'w');
  for (let i = 0; i < mib; i++) await file.writeFile(piece);
  await file.sync();
  await file.close();
  return (performance.now() - began) / 1000;
}

function download(agent: BerthAgent, path: string): Promise<void> {
  const { port } = agent.address as { port: number };
  return new Promise((resolve, reject) => {
    const call = request({ port, path, headers: { 'x-api-key': agent.key } }, (answer) => {
      if (answer.statusCode !== 200) reject(new Error(`an export answered ${answer.statusCode}`));
      answer.resume().once('error', reject).once('end', resolve);
    });
    call.once('error', reject).end();
  });
}
