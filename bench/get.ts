import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareDatabase, profilingFlags } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { buildProgram } from './support/build.js';
import { Child, cpuMsOf } from './support/child.js';
import { Connection, requestText } from './support/connection.js';
import { type Report, type Row, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { makeFolder } from './support/world.js';

const CONCURRENCY = 10;
const ROUNDS = 8;

interface Side {
  port: number;
  request: string;
  pid: number;
  times: Times;
  seconds: number;
  cpuMs: number;
}

/** What authentication, limits, validation, logging and the rest of the edge cost: GET of an agent against its query alone. */
export const get: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const [bare, berth] = await startSides(scope, url);
    for (const side of [bare, berth]) await oneRound(side, scaled(2_000));
    for (const side of [bare, berth]) Object.assign(side, { times: new Times(), seconds: 0, cpuMs: 0 });
    for (let round = 0; round < ROUNDS; round++) for (const side of [bare, berth]) await oneRound(side, scaled(4_000));
    const perS = ({ times, seconds }: Side) => times.n / seconds;
    reports.push({
      title: `authenticated GET of an agent, ${CONCURRENCY} concurrent (${kind})`,
      rows: [
        rowOf('bare route, same query', bare.times, perS(bare)),
        rowOf('Berth', berth.times, perS(berth)),
        cpuRow('bare route', bare),
        cpuRow('Berth', berth),
      ],
      verdicts: [
        { what: "authenticated GET, of the bare route's rate", value: perS(berth) / perS(bare), unit: '', atLeast: 0.6 },
      ],
      notes: [],
    });
    await scope.close();
  }
  return reports;
};

function cpuRow(what: string, { times, cpuMs }: Side): Row {
  return { what: `${what}, processor time each`, n: times.n, value: `${(cpuMs / times.n).toFixed(3)} ms` };
}

async function startSides(scope: Scope, postgres: string | undefined): Promise<[Side, Side]> {
  const dataDir = join(await makeFolder(scope), 'd');
  await mkdir(dataDir);
  const databaseUrl = await prepareDatabase(dataDir, postgres);
  const args = [
    ...profilingFlags(),
    await buildProgram('get-server'),
    dataDir,
    ...(databaseUrl === undefined ? [] : [databaseUrl]),
  ];
  const child = await Child.start(args, {}, `${dataDir}.log`);
  scope.add(() => child.stop());
  const said = await child.said<{ berth: number; bare: number; user: string; key: string }>('bare');
  const side = (port: number, request: string): Side => ({
    port,
    request,
    pid: child.pid,
    times: new Times(),
    seconds: 0,
    cpuMs: 0,
  });
  return [
    side(said.bare, requestText('GET', '/agent', {})),
    side(said.berth, requestText('GET', `/api/v1/users/${said.user}/agents/agent`, { 'x-api-key': said.key })),
  ];
}

async function oneRound(side: Side, requests: number): Promise<void> {
  const address = { host: '127.0.0.1', port: side.port };
  const connections = await Promise.all(Array.from({ length: CONCURRENCY }, () => Connection.open(address)));
  let left = requests;
  const cpuBefore = cpuMsOf([side.pid]);
  const began = performance.now();
  await Promise.all(
    connections.map(async (connection) => {
      while (left-- > 0) {
        const sent = performance.now();
        const status = await connection.exchange(side.request);
        if (status !== 200) throw new Error(`a GET answered ${status}`);
        side.times.add(performance.now() - sent);
      }
    }),
  );
  side.seconds += (performance.now() - began) / 1000;
  side.cpuMs += cpuMsOf([side.pid]) - cpuBefore;
  for (const connection of connections) connection.close();
}
