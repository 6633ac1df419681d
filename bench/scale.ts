import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareDatabase, profilingFlags } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { buildProgram } from './support/build.js';
import { Child } from './support/child.js';
import { Connection, requestText } from './support/connection.js';
import { type Report, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { makeFolder } from './support/world.js';

const SETTLED = [100, 1_000, 10_000];
const RUNNING = 500;
const USERS = [10, 100_000] as const;
const ROUNDS = 6;

interface Passes {
  startMs: number;
  times: number[];
  idleCpuMsPerS: number;
}

interface Restart {
  linkedMs: number;
  settledMs: number;
  cpuMs: number;
}

interface Api {
  port: number;
  user: string;
  key: string;
}

/** What grows with how much there is: a pass, an idle second, a restart, and the API. On a runtime in memory, so that Berth alone is measured. */
export const scale: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    reports.push(await passes(scope, url, `one deployment due among many that are settled (${kind})`, SETTLED.map(scaled)));
    await scope.close();
    reports.push(await restart(scope, url, `Berth starts beside instances that run (${kind})`, scaled(RUNNING)));
    await scope.close();
    reports.push(await api(scope, url, `the API beside other users (${kind})`, USERS.map(scaled), scaled(400)));
    await scope.close();
  }
  return reports;
};

async function passes(scope: Scope, server: string | undefined, title: string, counts: number[]): Promise<Report> {
  const rows: Report['rows'] = [];
  const p50s: number[] = [];
  for (const count of counts) {
    const { times, startMs, idleCpuMsPerS } = await measured<Passes>(scope, server, 'passes', count);
    const all = new Times();
    all.addAll(times.slice(10));
    p50s.push(all.p50);
    rows.push(rowOf(`${count} settled: due to settled again`, all));
    rows.push({ what: `${count} settled: from the start to all listened for`, n: 1, value: `${startMs.toFixed(0)} ms` });
    rows.push({ what: `${count} settled: processor time of an idle second`, n: 10, value: `${idleCpuMsPerS.toFixed(1)} ms` });
  }
  const value = p50s.at(-1)! / p50s[0]!;
  const verdicts = [{ what: `p50 of a pass among ${counts.at(-1)}, of that among ${counts[0]}`, value, unit: '', atMost: 1.25 }];
  return { title, rows, verdicts, notes: [] };
}

async function restart(scope: Scope, server: string | undefined, title: string, count: number): Promise<Report> {
  const { linkedMs, settledMs, cpuMs } = await measured<Restart>(scope, server, 'restart', count);
  const rows = [
    { what: 'all links up', n: count, value: `${linkedMs.toFixed(0)} ms` },
    { what: 'all settled', n: count, value: `${settledMs.toFixed(0)} ms` },
    { what: 'processor time of it, gateways included', n: count, value: `${cpuMs.toFixed(0)} ms` },
  ];
  const verdicts = [
    { what: `${count} running deployments, from the start to converged`, value: settledMs, unit: 'ms', atMost: 3_000 },
  ];
  return { title, rows, verdicts, notes: ['the instances share the process and its processor'] };
}

async function api(scope: Scope, server: string | undefined, title: string, counts: number[], requests: number): Promise<Report> {
  const sides: { count: number; said: Api; times: Map<string, Times> }[] = [];
  for (const count of counts) sides.push({ count, said: await measured<Api>(scope, server, 'api', count), times: new Map() });
  for (let round = 0; round <= ROUNDS; round++) {
    for (const { said, times } of sides) {
      for (const [name, text] of Object.entries(requestsOf(said))) {
        const all = times.get(name) ?? new Times();
        times.set(name, all);
        const taken = await timesOf(said.port, text, Math.ceil(requests / ROUNDS));
        // The first finds cold caches.
        if (round > 0) all.addAll(taken);
      }
    }
  }
  const names = [...sides[0]!.times.keys()];
  const rows = names.flatMap((name) => sides.map(({ count, times }) => rowOf(`${name}, ${count} users`, times.get(name)!)));
  const verdicts = names.map((name) => {
    const [few, many] = sides.map(({ times }) => times.get(name)!.p50);
    return {
      what: `${name}: p50 beside ${counts.at(-1)} users, of that beside ${counts[0]}`,
      value: many! / few!,
      unit: '',
      atMost: 1.25,
    };
  });
  return { title, rows, verdicts, notes: [] };
}

function requestsOf({ user, key }: Api): Record<string, string> {
  const base = `/api/v1/users/${user}`;
  const headers = { 'x-api-key': key };
  return {
    'GET agent': requestText('GET', `${base}/agents/agent`, headers),
    'GET agents': requestText('GET', `${base}/agents`, headers),
    'GET deploy/status': requestText('GET', `${base}/deploy/status`, headers),
    'PUT agent': requestText('PUT', `${base}/agents/agent`, headers, '{"description":"changed"}'),
  };
}

async function timesOf(port: number, text: string, count: number): Promise<number[]> {
  const connection = await Connection.open({ host: '127.0.0.1', port });
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const sent = performance.now();
    const status = await connection.exchange(text);
    if (status !== 200) throw new Error(`${text.split('\r\n')[0]} answered ${status}`);
    times.push(performance.now() - sent);
  }
  connection.close();
  return times;
}

/** What a process of its own measured, on a database of its own. */
async function measured<T>(scope: Scope, server: string | undefined, what: string, count: number): Promise<T> {
  const dataDir = join(await makeFolder(scope), 'd');
  await mkdir(dataDir);
  const databaseUrl = await prepareDatabase(dataDir, server);
  const program = await buildProgram('scale-server');
  const args = [...profilingFlags(), program, what, dataDir, String(count), ...(databaseUrl === undefined ? [] : [databaseUrl])];
  const child = await Child.start(args, {}, `${dataDir}.log`);
  scope.add(() => child.stop('SIGKILL'));
  return (await child.until(() => answerIn(child), 600_000)).measured as T;
}

async function answerIn(child: Child): Promise<{ measured: unknown } | undefined> {
  const line = (await child.output()).split('\n').find((text) => text.startsWith('{"measured"'));
  return line === undefined ? undefined : (JSON.parse(line) as { measured: unknown });
}
