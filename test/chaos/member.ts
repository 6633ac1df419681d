import { randomBytes } from 'node:crypto';
import { openDatabase, type Database } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp, type TestAppOptions } from '../support/app.js';
import { DatabaseLine } from './database-line.js';
import { ProcessGate } from './process-gate.js';

/** What a place for a Berth process is made of. */
export interface MemberParts {
  databaseUrl: string;
  /** How to start the app; `beside` comes by itself. */
  options: TestAppOptions;
  /** The one that made folder and keys. */
  first: () => TestApp | undefined;
}

/** A Berth process inside this one. Killed, it reaches neither its database nor its engine any more, and its clients are cut off. */
export class Member {
  readonly #parts: MemberParts;
  readonly #ends: Promise<unknown>[] = [];
  #running: { app: TestApp; id: string; line: DatabaseLine; gate: ProcessGate; database: Database } | undefined;
  /** How far the process's own clock is from the truth. */
  clockOffsetMs = 0;
  /** Ids that it had and that are dead. */
  readonly dead: string[] = [];

  constructor(parts: MemberParts) {
    this.#parts = parts;
  }

  get app(): TestApp | undefined {
    return this.#running?.app;
  }

  /** Starts it unless it runs. */
  async start(): Promise<void> {
    if (this.#running) return;
    const { databaseUrl, options, first } = this.#parts;
    const id = `p${randomBytes(4).toString('hex')}`;
    const given = new URL(databaseUrl);
    const line = await DatabaseLine.open(given.searchParams.get('host') ?? '');
    const url = `postgres://${given.username}@127.0.0.1:${line.port}${given.pathname}?application_name=${id}`;
    const gate = new ProcessGate();
    const database = await openDatabase({ databaseUrl: url, dataDir: '', log: createLog('silent') });
    const beside = first();
    const app = await startApp({
      ...options,
      ...(beside ? { beside } : {}),
      around: (runtime) => gate.around(runtime),
      app: {
        database,
        processId: id,
        rest: { everyMs: 200 },
        reconciler: { passEveryMs: 200, sweepEveryMs: 1_000, clock: { now: () => Date.now() + this.clockOffsetMs } },
        ...options.app,
      },
    });
    this.#running = { app, id, line, gate, database };
  }

  /** As kill -9 does, as far as that can be done to a part of a process. */
  kill(): void {
    const running = this.#running;
    if (!running) return;
    this.#running = undefined;
    running.line.cut();
    running.gate.die();
    this.dead.push(running.id);
    // What is left of it in memory ends as it can; that it cannot sign off is what is wanted.
    const end = running.app.leave().catch(() => undefined);
    this.#ends.push(
      end
        .then(() => running.database.close())
        .catch(() => undefined)
        .finally(() => running.line.close()),
    );
  }

  /** Stands still, holding what it holds, until it is mended. */
  freeze(): void {
    this.#running?.line.freeze();
    this.#running?.gate.freeze();
  }

  cutDatabase(): void {
    this.#running?.line.cut();
  }

  /** Kills or freezes it at one of its next calls to the engine, or messages to the database. */
  trap(where: 'call' | 'message', at: number, when: 'before' | 'after', what: 'kill' | 'freeze'): void {
    const spring = () => (what === 'kill' ? this.kill() : this.freeze());
    if (where === 'call') this.#running?.gate.setTrap(at, when, spring);
    else this.#running?.line.setTrap(at, when, spring);
  }

  mend(): void {
    this.#running?.line.mend();
    this.#running?.gate.thaw();
    this.clockOffsetMs = 0;
  }

  /** Ends it however it is, and waits until nothing of it is left. */
  async end(): Promise<void> {
    this.mend();
    this.kill();
    await Promise.all(this.#ends);
  }
}
