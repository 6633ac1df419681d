import { execFile } from 'node:child_process';
import { setMaxListeners } from 'node:events';
import { randomBytes } from 'node:crypto';
import { mkdir, open, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { migrate } from '../src/db/migrate.js';
import { type Database, openDatabase } from '../src/db/open.js';
import { Intake } from '../src/domains/logs/intake.js';
import { LOG_LIMITS } from '../src/domains/logs/limits.js';
import { Logs, type LogsWish } from '../src/domains/logs/logs.js';
import { claimStreamsAcrossTenants } from '../src/domains/logs/logs.store.js';
import { encodeRecord } from '../src/domains/logs/record.js';
import { segmentPath } from '../src/domains/logs/segment-file.js';
import { makeRedactor } from '../src/domains/secrets/redactor.js';
import { createLog } from '../src/lib/log.js';
import { DockerRuntime } from '../src/runtime/docker/docker.js';
import { IMAGE } from './support/bare.js';
import type { Bench } from './support/bench.js';
import { type Report, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { makeFolder } from './support/world.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const SEGMENT_LINES = 20_000;
const FOLLOWERS = 200;
const userId = 'usr_01m00000000000000000000000';
const EVERYTHING: LogsWish = {
  tail: 100,
  sinceMs: undefined,
  untilMs: undefined,
  agent: undefined,
  stream: undefined,
  levels: undefined,
  q: undefined,
  cursor: undefined,
};

/** Where logs are kept for this benchmark: a database with one user, and a folder. */
interface World {
  database: Database;
  logs: Logs;
  dir: string;
}

/** What it takes to bring logs in, to read the end of many, and to tell them to many. */
export const logs: Bench = async ({ scope, scaled }) => {
  const reports = [await ingest(scope, scaled(200_000))];
  await scope.close();
  reports.push(await tails(scope, scaled(512)));
  await scope.close();
  return reports;
};

async function makeWorld(scope: Scope): Promise<World> {
  const folder = await makeFolder(scope);
  const log = createLog('error');
  const database = await openDatabase({ databaseUrl: undefined, dataDir: folder, log });
  scope.add(() => database.close());
  await migrate(database.db);
  await sql`insert into users (id, name, tier, data_key) values (${userId}, 'bench', 'business', '')`.execute(database.db);
  const dir = join(folder, 'logs');
  const secrets = { redactorFor: () => makeRedactor([]) };
  return { database, dir, logs: new Logs({ db: database.db, bus: database.bus, dir, log, secrets }) };
}

/** A container that has printed so many lines, half of them a gateway's; the floor is to read them from the engine, byte by byte. */
async function ingest(scope: Scope, lines: number): Promise<Report> {
  const world = await makeWorld(scope);
  const { database, dir } = world;
  const installationId = `itl_bench${randomBytes(4).toString('hex')}`;
  const name = `berth-bench-${randomBytes(4).toString('hex')}`;
  await print(scope, name, installationId, lines);
  const runtime = new DockerRuntime({ installationId, log: createLog('error') });
  scope.add(() => runtime.close());
  const floor = await rawRead(name);
  const redactorFor = () => makeRedactor([{ name: 'A', value: 'a secret of some length' }]);
  const [lease] = await claimStreamsAcrossTenants(database.db, [userId], 'bench', 600);
  if (!lease) throw new Error('no lease');
  let written = 0;
  const intake = await Intake.open({
    db: database.db,
    runtime,
    place: { dir, userId },
    lease,
    left: [],
    heldUntilMs: Infinity,
    limits: { ...LOG_LIMITS, keepBurstBytes: Infinity, readBurstBytes: Infinity },
    log: createLog('error'),
    redactorFor,
    onWritten: () => (written += 1),
    onSealed: () => undefined,
  });
  const began = performance.now();
  const cpu = process.cpuUsage();
  intake.follow([{ instanceId: 'ins_bench', name, deploymentId: 'dep_bench', generation: 1, stopped: false }]);
  await intake.lastWords('ins_bench', 600_000);
  const seconds = (performance.now() - began) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  await intake.close();
  const answer = await world.logs.read(userId, { ...EVERYTHING, tail: 1 }, new AbortController().signal);
  if (!answer.data[0]?.message.includes(`line ${lines}`)) throw new Error(`not all lines came: ${JSON.stringify(answer.data)}`);
  const mib = floor.bytes / MIB;
  return {
    title: `logs come in: ${lines.toLocaleString('en')} lines, ${mib.toFixed(0)} MiB (docker, pglite)`,
    rows: [
      { what: 'read from the engine alone', n: 1, value: `${(mib / floor.seconds).toFixed(1)} MiB/s` },
      { what: 'collected, redacted and kept', n: 1, value: `${(mib / seconds).toFixed(1)} MiB/s` },
      { what: 'lines a second', n: 1, value: (lines / seconds).toFixed(0) },
      { what: 'processor time of Berth', n: 1, value: `${((user + system) / 1_000 / mib).toFixed(1)} ms/MiB` },
      { what: 'lines a write', n: written, value: (lines / written).toFixed(0) },
    ],
    verdicts: [{ what: 'of what the engine gives', value: floor.seconds / seconds, unit: '', atLeast: 0.25 }],
    notes: [`of a deployment ${LOG_LIMITS.keepBytesPerS / 1024} KiB a second are kept; that is lifted here`],
  };
}

/** A container that is not sealed as instances are, with a log that the engine does not cut. */
async function print(scope: Scope, name: string, installation: string, lines: number): Promise<void> {
  const program = `let n = 0; const go = () => { while (n < ${lines}) { n++; const text = n % 2
    ? JSON.stringify({ time: new Date().toISOString(), level: 'info', msg: 'line ' + n, agent: 'a', turn: 'trn_01m', steps: 3, ms: n })
    : 'line ' + n + ' of a program that says what it does, with a path /data/workspace/file-' + n + '.txt and a number ' + n * 7;
    if (!process.stdout.write(text + '\\n')) return process.stdout.once('drain', go); } }; go();`;
  const labels = { installation, deployment: 'dep_bench', instance: 'ins_bench', user: userId, generation: '1' };
  scope.add(() => run('docker', ['rm', '-f', name]));
  await run(
    'docker',
    [
      'run',
      '--name',
      name,
      '--network',
      'none',
      '--entrypoint',
      'node',
      '--log-opt',
      'max-size=1g',
      ...Object.entries(labels).flatMap(([key, value]) => ['--label', `berth.${key}=${value}`]),
      IMAGE,
      '-e',
      program,
    ],
    { maxBuffer: 1024 * MIB },
  );
}

function rawRead(name: string): Promise<{ bytes: number; seconds: number }> {
  const began = performance.now();
  const path = `/containers/${name}/logs?stdout=1&stderr=1&timestamps=1&tail=all`;
  return new Promise((resolve, reject) => {
    const request = http.get({ socketPath: '/var/run/docker.sock', path }, (response) => {
      let bytes = 0;
      response.on('data', (chunk: Buffer) => (bytes += chunk.length));
      response.on('end', () => resolve({ bytes, seconds: (performance.now() - began) / 1_000 }));
    });
    request.on('error', reject);
  });
}

/** The last 100 lines of logs of several sizes, a search through 32 MiB, and one line told to many. The floor reads the last bytes of a file. */
async function tails(scope: Scope, segments: number): Promise<Report> {
  const world = await makeWorld(scope);
  const content = segmentContent();
  const [small, large, floor, search] = [new Times(), new Times(), new Times(), new Times()];
  const signal = new AbortController().signal;
  const look = async (times: Times, wish: LogsWish) => {
    const began = performance.now();
    await world.logs.read(userId, wish, signal);
    times.add(performance.now() - began);
  };
  await addSegments(world, content, 1, 5);
  for (let i = 0; i < 55; i++) await look(i < 5 ? new Times() : small, EVERYTHING);
  await addSegments(world, content, 6, segments);
  for (let i = 0; i < 50; i++) {
    await look(large, EVERYTHING);
    await readEnd(segmentPath(world.dir, userId, segments), floor);
  }
  for (let i = 0; i < 5; i++) await look(search, { ...EVERYTHING, q: 'is nowhere to be found' });
  const gib = (segments * content.length) / 1024 / MIB;
  const told = await tellAll(world, segments);
  return {
    title: `logs are read: ${gib.toFixed(1)} GiB in ${segments} segments (pglite)`,
    rows: [
      rowOf('the last 64 KiB of a file', floor),
      rowOf(`tail=100 of ${((5 * content.length) / MIB).toFixed(0)} MiB`, small),
      rowOf(`tail=100 of ${gib.toFixed(1)} GiB`, large),
      rowOf('a search for what is not there, one answer (32 MiB)', search),
      { what: 'a line told to one follower', n: told.lines, value: `${told.oneMs.toFixed(3)} ms` },
      { what: `a line told to ${FOLLOWERS} followers`, n: told.lines, value: `${told.allMs.toFixed(3)} ms` },
    ],
    verdicts: [
      { what: 'tail=100: the large one beside the small one, p50', value: large.p50 / small.p50, unit: 'times', atMost: 2 },
    ],
    notes: ['as the domain answers, without HTTP; the database is asked for the agent, the stream and the rows of the segments'],
  };
}

function segmentContent(): Buffer {
  const lines = Array.from({ length: SEGMENT_LINES }, (_, n) =>
    encodeRecord({
      kind: 'line',
      time: new Date(Date.now() - (SEGMENT_LINES - n)).toISOString(),
      stream: 'stdout',
      level: 'info',
      agent: 'a',
      deployment_id: 'dep_01m00000000000000000000000',
      generation: 1,
      message: `turn ended {"turn":"trn_01m00000000000000000000000","steps":3,"ms":${n},"note":"and so on, and so forth, as always"}`,
    }),
  );
  return Buffer.from(lines.join(''));
}

async function addSegments({ database, dir }: World, content: Buffer, from: number, to: number): Promise<void> {
  await mkdir(join(dir, userId), { recursive: true });
  for (let number = from; number <= to; number++) {
    await writeFile(segmentPath(dir, userId, number), content);
    await sql`insert into log_segments (user_id, number, bytes, lines, from_at, to_at, sealed_at)
      values (${userId}, ${number}, ${content.length}, ${SEGMENT_LINES}, now() - interval '1 minute', now(), now())`.execute(
      database.db,
    );
  }
}

async function readEnd(path: string, times: Times): Promise<void> {
  const began = performance.now();
  const file = await open(path, 'r');
  const { size } = await file.stat();
  await file.read(Buffer.alloc(64 * 1024), 0, 64 * 1024, size - 64 * 1024);
  await file.close();
  times.add(performance.now() - began);
}

/** Lines that are appended to a stream, until all who follow it have heard the last one. */
async function tellAll(world: World, segments: number): Promise<{ lines: number; oneMs: number; allMs: number }> {
  const lines = 2_000;
  const one = await tell(world, segments + 1, lines, 1);
  const all = await tell(world, segments + 2, lines, FOLLOWERS);
  return { lines, oneMs: one / lines, allMs: all / lines };
}

async function tell({ database, dir, logs: kept }: World, number: number, lines: number, followers: number): Promise<number> {
  await sql`insert into log_segments (user_id, number) values (${userId}, ${number})`.execute(database.db);
  const file = await open(segmentPath(dir, userId, number), 'w');
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  let heard = 0;
  /** Resolves once so many lines have been told, to all together. */
  const until = (count: number) =>
    new Promise<void>((resolve) => {
      told = () => {
        if (heard === count) resolve();
      };
    });
  let told: () => void = () => undefined;
  const line = () => {
    heard += 1;
    told();
    return undefined;
  };
  const ready = until(followers);
  for (let i = 0; i < followers; i++) {
    const reader = { line, gap: () => undefined, waiting: () => undefined };
    void kept.follow(userId, { ...EVERYTHING, tail: 1 }, stop.signal, reader);
  }
  // Each has heard the last line that there was; now they wait.
  await ready;
  const done = until(followers * (lines + 1));
  const began = performance.now();
  const text = segmentContent().toString('utf8').split('\n');
  for (let at = 0; at < lines; at += 50) {
    await file.write(`${text.slice(at, at + 50).join('\n')}\n`);
    kept.grown(userId);
  }
  await done;
  const ms = performance.now() - began;
  stop.abort();
  await file.close();
  return ms;
}
