import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Bench } from './support/bench.js';
import { Berth, type DatabaseKind } from './support/berth.js';
import { type Report, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';

const run = promisify(execFile);
/** The same image by a name of its own, so that a change to it needs another container. */
const OTHER = 'berth-bench-other:1';
const CLIENTS = 2;

/** Instances are replaced while clients chat in a loop, plain and streamed: how many turns failed, and what the others waited. */
export const replace: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const image = process.env['AGENT_IMAGE'] ?? 'berth-agent:latest';
    await run('docker', ['tag', image, OTHER]);
    scope.add(async () => void (await run('docker', ['rmi', OTHER])));
    const env = { AGENT_IMAGE: image, AGENT_IMAGES: OTHER, REPLACE_PROBATION_MS: '200' };
    reports.push(await measure(await Berth.start(scope, { runtime: 'docker', postgres: url, env }), kind, scaled(200), scope));
    await scope.close();
  }
  return reports;
};

async function measure(berth: Berth, kind: DatabaseKind, count: number, scope: Scope): Promise<Report> {
  const user = await berth.user('bench');
  const base = `/api/v1/users/${user.id}/agents`;
  await berth.call('POST', base, user.key, { name: 'agent', model: 'demo/echo', isolation: 'dedicated' });
  const path = `${base}/agent/chat`;
  await say(berth, path, user.key, false);
  const loops = new Loops();
  scope.add(() => loops.end());
  const alone = new Times();
  for (let n = 0; n < 200; n++) alone.add(await timed(() => say(berth, path, user.key, n % 2 === 1)));
  for (let n = 0; n < CLIENTS; n++) for (const streamed of [false, true]) loops.begin(() => say(berth, path, user.key, streamed));
  const whole = new Times();
  for (let n = 0; n < count; n++) {
    const before = await instanceOf(berth, user);
    whole.add(
      await timed(async () => {
        await berth.call('PATCH', `${base}/agent/config`, user.key, { image: n % 2 === 0 ? OTHER : null });
        while ((await instanceOf(berth, user)) === before) await new Promise((resolve) => setTimeout(resolve, 50));
      }),
    );
  }
  await loops.end();
  return {
    title: `${count} replacements while ${CLIENTS * 2} clients chat (docker, ${kind})`,
    rows: [
      rowOf('a replacement, from the wish to the old one gone', whole),
      rowOf('a turn, one client and no replacement', alone),
      rowOf('a turn during replacements', loops.times),
      { what: 'the longest turn', n: loops.times.n, value: `${loops.times.at(1).toFixed(0)} ms` },
    ],
    verdicts: [{ what: 'turns that failed', value: loops.failures.length, unit: '', atMost: 0 }],
    notes: loops.failures.slice(0, 3),
  };
}

/** The instance that a settled deployment has. */
async function instanceOf(berth: Berth, user: { id: string; key: string }): Promise<string | undefined> {
  const status = await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`);
  return status.deployments[0]?.instance?.id;
}

async function say(berth: Berth, path: string, key: string, streamed: boolean): Promise<void> {
  const answer = await fetch(`${berth.url}${path}${streamed ? '/stream' : ''}`, {
    method: 'POST',
    headers: { 'x-api-key': key, 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'some words to be said again' }] }),
  });
  const text = await answer.text();
  if (!answer.ok || (streamed && !text.includes('event: done'))) throw new Error(`${answer.status} ${text.slice(-300)}`);
}

async function timed(work: () => Promise<void>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** Clients that ask again as soon as they are answered. */
class Loops {
  readonly times = new Times();
  readonly failures: string[] = [];
  readonly #running: Promise<void>[] = [];
  #ended = false;

  begin(turn: () => Promise<void>): void {
    this.#running.push(this.#loop(turn));
  }

  async end(): Promise<void> {
    this.#ended = true;
    await Promise.all(this.#running);
  }

  async #loop(turn: () => Promise<void>): Promise<void> {
    while (!this.#ended) {
      try {
        this.times.add(await timed(turn));
      } catch (error) {
        this.failures.push(error instanceof Error ? error.message : String(error));
      }
    }
  }
}
