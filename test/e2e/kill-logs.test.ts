import { appendFileSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTick } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { until } from '../support/until.js';

const KILLS = 3;
/** Between two kills; small enough that what is kept of a deployment at once is never reached. */
const LINES_BETWEEN = 4_000;

let berth: BerthProcess;
let key: string;

beforeAll(async () => {
  berth = await BerthProcess.prepare({ RUNTIME: 'process' });
  await berth.start();
  const user = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'printer', tier: 'business' });
  key = user.json.api_key;
  await berth.call('POST', '/api/v1/users/me/agents', key, { name: 'a' });
  await until(async () => (await berth.call('GET', '/api/v1/deploy/status', key)).json.settled, 'the agent to be ready', 60_000);
}, 300_000);
afterAll(async () => {
  const admin = await berth.adminKey();
  await berth.call('DELETE', '/api/v1/users/printer', admin);
  await until(
    async () => (await berth.call('GET', '/api/v1/users/printer', admin)).status === 404,
    'the user to be gone',
    60_000,
  );
  await berth.kill();
  await rm(berth.dataDir, { recursive: true, force: true });
});

/** Prints as a shim writes its instance's lines down, whether a Berth reads them or not; now and then one comes in two halves. */
class Printer {
  readonly #path: string;
  #goal = 0;
  #ended: Promise<void> | undefined;
  printed = 0;

  constructor() {
    const instances = join(berth.dataDir, 'process/instances');
    this.#path = join(instances, readdirSync(instances)[0]!, 'log');
  }

  /** So many more, from now on. */
  more(count: number): void {
    this.#goal += count;
    this.#ended ??= this.#print().finally(() => (this.#ended = undefined));
  }

  async end(): Promise<void> {
    await this.#ended;
  }

  async #print(): Promise<void> {
    while (this.printed < this.#goal) {
      for (let i = 0; i < 20; i++) this.#line(++this.printed);
      await nextTick();
    }
  }

  #line(n: number): void {
    const line = `${new Date().toISOString()} stdout printed ${n} ${'ä'.repeat(n % 50)}.\n`;
    const half = n % 7 === 0 ? Buffer.byteLength(line) / 2 : 0;
    const bytes = Buffer.from(line);
    for (const part of [bytes.subarray(0, half), bytes.subarray(half)]) if (part.length > 0) appendFileSync(this.#path, part);
  }
}

/** Of what was printed, oldest first, page by page. */
async function kept(): Promise<string[]> {
  const pages: string[][] = [];
  for (let cursor = ''; ;) {
    const { json } = await berth.call('GET', `/api/v1/logs?tail=5000&q=printed${cursor}`, key);
    expect(json.gaps).toEqual([]);
    pages.unshift(json.data.map(({ message }: { message: string }) => message));
    if (!json.pagination.has_more) return pages.flat();
    cursor = `&cursor=${json.pagination.next_cursor}`;
  }
}

test('kill -9 of Berth in the midst of printing: each line is kept once, whole and in order', async () => {
  const printer = new Printer();
  const newest = async () => {
    const { json } = await berth.call('GET', '/api/v1/logs?tail=1&q=printed', key);
    return Number(json.data[0]?.message.split(' ')[1] ?? 0);
  };
  for (let kill = 0; kill < KILLS; kill++) {
    const from = printer.printed;
    printer.more(LINES_BETWEEN);
    // In the midst: some of these lines are written, some are on their way, and the rest is yet to be printed.
    await until(async () => (await newest()) > from, 'some of the lines to be kept', 60_000);
    await berth.kill();
    await printer.end();
    printer.more(LINES_BETWEEN / 2);
    await berth.start();
  }
  await printer.end();
  await until(async () => (await newest()) === printer.printed, 'the last line to be kept', 60_000);
  const lines = await kept();
  const told = lines.map((line) => Number(/^printed (\d+) ä*\.$/.exec(line)?.[1] ?? NaN));
  expect(told).toEqual(Array.from({ length: printer.printed }, (_, n) => n + 1));
}, 300_000);
