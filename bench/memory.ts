import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import Docker from 'dockerode';
import { Berth, type BerthAgent } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { buildProgram } from './support/build.js';
import { residentMib } from './support/child.js';
import { Connection } from './support/connection.js';
import { type Report, slopeOf } from './support/measure.js';
import { oneTurn, Seen } from './support/streams.js';
import { makeFolder, startUpstream } from './support/world.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const CLIENTS = 5;
const SAMPLES = 20;
/** What an idle process gives back, it gives back within this time. */
const SETTLE_MS = 3_000;

/** Megabytes resident as they are, and once all garbage is collected. */
interface Sample {
  turns: number;
  asIs: number;
  collected: number;
}

/** Resident memory of Berth, at the start and over many turns, and of an instance that does nothing. */
export const memory: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  const flags = ['--expose-gc', '--import', await buildProgram('collect')];
  for (const { kind, url } of await databases()) {
    const { port } = await startUpstream(scope, await makeFolder(scope));
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url, upstreamPort: port, flags });
    await sleep(SETTLE_MS);
    const atStart = berth.child.residentMib();
    const agents = await berth.agents(CLIENTS);
    await turns(agents, scaled(200));
    const samples = [await sample(berth, 0)];
    const each = scaled(2_000) / SAMPLES;
    for (let i = 1; i <= SAMPLES; i++) {
      await turns(agents, each);
      samples.push(await sample(berth, i * each));
    }
    reports.push(overTurns(kind, atStart, samples));
    await scope.close();
  }
  const berth = await Berth.start(scope, { runtime: 'docker' });
  await berth.agents(1, 'demo/echo');
  await sleep(SETTLE_MS);
  reports.push(await idleInstance(berth));
  return reports;
};

async function sample({ child }: Berth, done: number): Promise<Sample> {
  const asIs = child.residentMib();
  const said = (await child.output()).split('"collected"').length;
  child.signal('SIGUSR2');
  await child.until(async () => ((await child.output()).split('"collected"').length > said ? true : undefined));
  return { turns: done, asIs, collected: child.residentMib() };
}

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

function overTurns(kind: string, atStart: number, samples: Sample[]): Report {
  const [first, last] = [samples[0]!, samples.at(-1)!];
  const growth = (of: 'asIs' | 'collected', part = samples) => slopeOf(part.map((one) => ({ x: one.turns, y: one[of] }))) * 1000;
  const late = samples.slice(samples.length / 2);
  const mib = (what: string, value: number, n = 1) => ({ what, n, value: `${value.toFixed(1)} MiB` });
  return {
    title: `resident memory of Berth over ${last.turns} turns (${kind})`,
    rows: [
      mib('at the start', atStart),
      mib('after the warm-up', first.asIs),
      mib('after the warm-up, garbage collected', first.collected),
      mib('at the end', last.asIs),
      mib('at the end, garbage collected', last.collected),
      mib('most', Math.max(...samples.map(({ asIs }) => asIs)), samples.length),
      mib('growth per 1,000 turns', growth('asIs'), samples.length),
      mib('growth per 1,000 turns, garbage collected', growth('collected'), samples.length),
      mib('the same, second half', growth('collected', late), late.length),
    ],
    verdicts: [
      { what: 'grows per 1,000 turns, garbage collected, second half', value: growth('collected', late), unit: 'MiB', atMost: 2 },
    ],
    notes: ['what grows in the first half is compiled code; how much garbage V8 lets lie is its own choice; neither is judged'],
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
