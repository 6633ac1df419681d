import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Berth, type BerthAgent } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { cpuMsOf } from './support/child.js';
import type { Report, Row } from './support/measure.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const PIECE = Buffer.alloc(64 * 1024, 'berth ');
const SETTLE_MS = 3_000;
const SMALL_FILES = 200;

/** One way of moving so many bytes. */
export interface Passage {
  seconds: number;
  /** What Berth's resident memory had grown by at its highest. */
  grownMib: number;
  cpuMs: number;
}

/** Files through the API in both directions, against `dd` on the volume itself; and what that takes of Berth's memory. */
export const files: Bench = async ({ scope, scaled }) => {
  const mib = scaled(1_024);
  const berth = await Berth.start(scope, { runtime: 'docker' });
  const [agent] = await berth.agents(1, 'demo/echo');
  if (!agent) throw new Error('there is no agent');
  const container = await containerOf(berth);
  const floor = { write: await ddWrite(container, mib), read: await ddRead(container) };
  await run('docker', ['exec', container, 'rm', '/data/floor']);
  await small(agent, 50);
  await sleep(SETTLE_MS);
  const mine = {
    write: await watched(berth, () => upload(agent, mib)),
    read: await watched(berth, () => download(agent)),
  };
  const times = await small(agent, scaled(SMALL_FILES));
  return [report(mib, floor, mine, times)];
};

function report(
  mib: number,
  floor: { write: number; read: number },
  mine: { write: Passage; read: Passage },
  times: { write: number[]; read: number[] },
): Report {
  const rate = (what: string, seconds: number): Row => ({ what, n: 1, value: `${(mib / seconds).toFixed(0)} MiB/s` });
  const value = (what: string, text: string): Row => ({ what, n: 1, value: text });
  const p50 = (all: number[]) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)] ?? NaN;
  const p99 = (all: number[]) => all.toSorted((a, b) => a - b)[Math.floor(all.length * 0.99)] ?? NaN;
  return {
    title: `a file of ${mib} MiB (docker)`,
    rows: [
      rate('write: dd to the volume, synced', floor.write),
      rate('write: PUT', mine.write.seconds),
      rate('read: dd from the volume', floor.read),
      rate('read: GET', mine.read.seconds),
      value('write: processor time of Berth', `${((mine.write.cpuMs / mib) * 1024).toFixed(0)} ms/GiB`),
      value('read: processor time of Berth', `${((mine.read.cpuMs / mib) * 1024).toFixed(0)} ms/GiB`),
      value('write: growth of Berth', `${mine.write.grownMib.toFixed(1)} MiB`),
      value('read: growth of Berth', `${mine.read.grownMib.toFixed(1)} MiB`),
      { what: 'PUT of 1 KiB', n: times.write.length, p50: p50(times.write), p99: p99(times.write) },
      { what: 'GET of 1 KiB', n: times.read.length, p50: p50(times.read), p99: p99(times.read) },
    ],
    verdicts: [
      { what: 'Berth grows while a file goes in', value: mine.write.grownMib, unit: 'MiB', atMost: 32 },
      { what: 'Berth grows while a file goes out', value: mine.read.grownMib, unit: 'MiB', atMost: 32 },
    ],
    notes: [
      'what is read lies in the page cache; a link passes on at most 20,000 pieces a second of an instance (src/link/limits.ts)',
    ],
  };
}

/** How long some work takes, and what of Berth's processor time and memory. */
export async function watched(berth: Berth, work: () => Promise<void>): Promise<Passage> {
  const before = berth.child.residentMib();
  const cpuBefore = cpuMsOf([berth.child.pid]);
  let most = before;
  const sampling = setInterval(() => (most = Math.max(most, berth.child.residentMib())), 25);
  const began = performance.now();
  try {
    await work();
  } finally {
    clearInterval(sampling);
  }
  const seconds = (performance.now() - began) / 1000;
  return { seconds, grownMib: most - before, cpuMs: cpuMsOf([berth.child.pid]) - cpuBefore };
}

/** Writes `large.bin`. */
export async function upload(agent: BerthAgent, mib: number): Promise<void> {
  const request = agent.open('PUT', 'large.bin', { 'content-length': mib * MIB });
  const answered = new Promise<IncomingMessage>((resolve, reject) => request.once('response', resolve).once('error', reject));
  for (let sent = 0; sent < mib * MIB; sent += PIECE.length) {
    if (!request.write(PIECE)) await new Promise((resolve) => request.once('drain', resolve));
  }
  request.end();
  await endOf(await answered, 201);
}

async function download(agent: BerthAgent): Promise<void> {
  const request = agent.open('GET', 'large.bin');
  const answered = new Promise<IncomingMessage>((resolve, reject) => request.once('response', resolve).once('error', reject));
  request.end();
  await endOf(await answered, 200);
}

/** Times of small files, one after the other: what a call costs. */
async function small(agent: BerthAgent, count: number): Promise<{ write: number[]; read: number[] }> {
  const times = { write: [] as number[], read: [] as number[] };
  const one = async (method: string, body?: Buffer) => {
    const began = performance.now();
    const request = agent.open(method, 'small.bin', body ? { 'content-length': body.length } : {});
    const answered = new Promise<IncomingMessage>((resolve, reject) => request.once('response', resolve).once('error', reject));
    request.end(body);
    await endOf(await answered);
    return performance.now() - began;
  };
  for (let i = 0; i < count; i++) {
    times.write.push(await one('PUT', PIECE.subarray(0, 1024)));
    times.read.push(await one('GET'));
  }
  return times;
}

function endOf(answer: IncomingMessage, expected?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const { statusCode = 0 } = answer;
    if (expected === undefined ? statusCode > 299 : statusCode !== expected)
      reject(new Error(`a file call answered ${statusCode}`));
    answer.resume().once('error', reject).once('end', resolve);
  });
}

async function containerOf(berth: Berth): Promise<string> {
  const label = `berth.installation=${readFileSync(`${berth.dataDir}/installation.id`, 'utf8').trim()}`;
  const { stdout } = await run('docker', ['ps', '-q', '--filter', `label=${label}`]);
  return stdout.trim().split('\n')[0]!;
}

async function ddWrite(container: string, mib: number): Promise<number> {
  return dd(container, ['if=/dev/zero', 'of=/data/floor', 'bs=64k', `count=${mib * 16}`, 'conv=fdatasync']);
}

async function ddRead(container: string): Promise<number> {
  return dd(container, ['if=/data/floor', 'of=/dev/null', 'bs=64k']);
}

async function dd(container: string, args: string[]): Promise<number> {
  const { stderr } = await run('docker', ['exec', container, 'dd', ...args]);
  return Number(/, ([\d.e-]+) s,/.exec(stderr)?.[1]);
}
