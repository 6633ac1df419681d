import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import Docker from 'dockerode';
import { Berth, type BerthAgent } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { residentMib } from './support/child.js';
import { Connection } from './support/connection.js';
import { type Report, slopeOf } from './support/measure.js';
import { oneTurn, Seen } from './support/streams.js';
import { makeFolder, startUpstream } from './support/world.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const CLIENTS = 5;
const SAMPLES = 40;
/** What an idle process gives back, it gives back within this time. */
const SETTLE_MS = 3_000;

/** Resident memory of Berth, at the start and over many turns, and of an instance that does nothing. */
export const memory: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const { port } = await startUpstream(scope, await makeFolder(scope));
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url, upstreamPort: port });
    await sleep(SETTLE_MS);
    const atStart = berth.child.residentMib();
    const agents = await berth.agents(CLIENTS);
    await turns(agents, scaled(200));
    const points: { x: number; y: number }[] = [{ x: 0, y: berth.child.residentMib() }];
    const each = scaled(2_000) / SAMPLES;
    for (let i = 1; i <= SAMPLES; i++) {
      await turns(agents, each);
      points.push({ x: i * each, y: berth.child.residentMib() });
    }
    reports.push(overTurns(kind, atStart, points));
    await scope.close();
  }
  const berth = await Berth.start(scope, { runtime: 'docker' });
  await berth.agents(1, 'demo/echo');
  await sleep(SETTLE_MS);
  reports.push(await idleInstance(berth));
  return reports;
};

async function turns(agents: readonly BerthAgent[], count: number): Promise<void> {
  const wish = { words: 32, gapMs: 0 };
  let left = count;
  await Promise.all(
    agents.map(async (agent) => {
      const connection = await Connection.open(agent.address);
      while (left-- > 0) await oneTurn(connection, agent.request(wish), wish, new Seen());
      connection.close();
    }),
  );
}

function overTurns(kind: string, atStart: number, points: { x: number; y: number }[]): Report {
  const perThousand = slopeOf(points) * 1000;
  const late = points.slice(points.length / 2);
  const n = points.at(-1)!.x;
  const mib = (value: number) => `${value.toFixed(1)} MiB`;
  return {
    title: `resident memory of Berth over ${n} turns (${kind})`,
    rows: [
      { what: 'at the start', n: 1, value: mib(atStart) },
      { what: 'after the warm-up', n: 1, value: mib(points[0]!.y) },
      { what: 'at the end', n: 1, value: mib(points.at(-1)!.y) },
      { what: 'most', n: points.length, value: mib(Math.max(...points.map(({ y }) => y))) },
      { what: 'slope, per 1,000 turns', n: points.length, value: mib(perThousand) },
      { what: 'slope of the second half, per 1,000 turns', n: late.length, value: mib(slopeOf(late) * 1000) },
    ],
    verdicts: [{ what: 'grows per 1,000 turns, second half', value: slopeOf(late) * 1000, unit: 'MiB', atMost: 2 }],
    notes: [],
  };
}

async function idleInstance(berth: Berth): Promise<Report> {
  const docker = new Docker();
  const label = `berth.installation=${readFileSync(`${berth.dataDir}/installation.id`, 'utf8').trim()}`;
  const [found] = await docker.listContainers({ filters: { label: [label] } });
  if (!found) throw new Error('the instance is not there');
  const container = docker.getContainer(found.Id);
  const { memory_stats: stats } = await container.stats({ stream: false, 'one-shot': true } as { stream: false });
  const { State } = await container.inspect();
  const cgroup = (stats.usage - (stats.stats.inactive_file ?? 0)) / MIB;
  const gateway = residentMib(await childOf(State.Pid));
  return {
    title: 'resident memory of an idle instance (docker)',
    rows: [
      { what: 'its cgroup, without the cache that can go', n: 1, value: `${cgroup.toFixed(1)} MiB` },
      { what: 'its gateway process', n: 1, value: `${gateway.toFixed(1)} MiB` },
    ],
    verdicts: [{ what: "an idle instance's gateway, resident", value: gateway, unit: 'MiB', atMost: 80 }],
    notes: [],
  };
}

/** The process that the container's init started. */
async function childOf(pid: number): Promise<number> {
  const { stdout } = await run('pgrep', ['-P', String(pid)]);
  return Number(stdout.trim().split('\n')[0]);
}
