import { randomBytes } from 'node:crypto';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { vi } from 'vitest';
import type { LogLine, LogOptions, Runtime, RuntimeEvent, InstanceSpec } from '../../src/runtime/runtime.js';

export const silentLog = pino({ level: 'silent' });

/** What an instance can be told to do: the commands of `entry.mjs`, which the fake runtime's harness also knows. */
export type Command =
  | { say: ['stdout' | 'stderr', string] }
  | { count: number }
  | { ignoreTerm: true }
  | { keep: string }
  | { recall: true }
  | { fill: number }
  | { oomChild: true }
  | { probe: true }
  | { oom: true }
  | { spawn: true }
  | { exit: number };

/** A folder for what a test file makes, and specs of instances that find their commands in it. */
export class Bench {
  readonly folder = mkdtempSync(join(tmpdir(), 'berth-rt-'));
  /** Everything of one run is named by this, so that nothing is shared with other runs on the engine. */
  readonly run = `rtt-${randomBytes(4).toString('hex')}`;
  readonly image: string;
  #next = 1;

  constructor(image: string) {
    this.image = image;
  }

  spec(changes: Partial<InstanceSpec> = {}): InstanceSpec {
    const n = this.#next++;
    const installationId = changes.installationId ?? this.run;
    const linkDir = join(this.folder, `link-${n}`);
    mkdirSync(linkDir, { mode: 0o755 });
    return {
      name: `berth-${installationId}-dep_${n}-1`,
      installationId,
      instanceId: `ins_${this.run}_${n}`,
      deploymentId: `dep_${this.run}_${n}`,
      userId: `usr_${this.run}`,
      generation: 1,
      image: this.image,
      uid: 20_000 + n,
      volume: `berth-${installationId}-dep_${n}`,
      linkDir,
      hostname: `agents-${n}`,
      limits: { memoryMib: 192, cpuMillis: 2000, pids: 64 },
      ...changes,
    };
  }

  tell(spec: InstanceSpec, ...commands: Command[]): void {
    appendFileSync(join(spec.linkDir, 'commands'), commands.map((command) => `${JSON.stringify(command)}\n`).join(''));
  }

  forget(spec: InstanceSpec): void {
    writeFileSync(join(spec.linkDir, 'commands'), '');
  }

  dispose(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Reads events in the background from the moment the runtime listens. */
export class EventReader {
  readonly seen: RuntimeEvent[] = [];
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;

  constructor(runtime: Runtime) {
    this.#done = this.#read(runtime);
  }

  /** The types of the events of one instance, in order. */
  of(name: string): string[] {
    return this.seen.filter((event) => 'name' in event && event.name === name).map((event) => event.type);
  }

  async until(name: string, ...types: string[]): Promise<void> {
    await eventually(() => {
      const missing = types.filter((type) => !this.of(name).includes(type));
      if (missing.length > 0) throw new Error(`no event ${missing.join(', ')} of ${name}; seen: ${this.of(name).join(', ')}`);
    });
  }

  async untilListening(resyncs = 1): Promise<this> {
    await eventually(() => {
      const count = this.seen.filter((event) => event.type === 'resync').length;
      if (count < resyncs) throw new Error(`seen ${count} resyncs of ${resyncs}`);
    });
    return this;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }

  async #read(runtime: Runtime): Promise<void> {
    for await (const event of runtime.events(this.#stop.signal)) this.seen.push(event);
  }
}

export function eventually<T>(condition: () => T | Promise<T>, timeoutMs = 10_000): Promise<T> {
  return vi.waitFor(condition, { timeout: timeoutMs, interval: 10 });
}

export async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

/** The lines there are now. */
export async function readLog(runtime: Runtime, name: string, options: Partial<LogOptions> = {}): Promise<LogLine[]> {
  return (await all(runtime.logs(name, { follow: false, tail: 100_000, ...options }, AbortSignal.timeout(20_000)))).flat();
}

export async function untilLogged(runtime: Runtime, name: string, text: string): Promise<LogLine> {
  return eventually(async () => {
    const line = (await readLog(runtime, name)).find((it) => it.text.includes(text));
    if (!line) throw new Error(`${name} has not logged ${text}`);
    return line;
  });
}
