import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import { type Database, openDatabase } from '../../src/db/open.js';
import { AppError } from '../../src/lib/errors.js';
import { createLog } from '../../src/lib/log.js';
import { listFolders } from '../../src/link/folder.js';
import { FakeEngine, type FakeOperation } from '../../src/runtime/fake/engine.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import type { TestApp } from '../support/app.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { FakeGateways } from '../support/fake-gateway.js';
import { HookReceiver } from '../support/hook-receiver.js';
import { type Action, ACTIONS } from './actions.js';
import { OWN_NAME, watchLeases } from './lease-watch.js';
import { hooking, LIFECYCLE } from './lifecycle-actions.js';
import { Member } from './member.js';
import type { Random } from './random.js';
import type { Step } from './script.js';
import { ignoreHeld, shiftTime } from './time-shift.js';
import type { Fault, Reply, World } from './world.js';

const PROCESSES = 2;
/** How much time passes after a round: what a dead process held runs out, and what failed is tried again. */
const AFTERWARDS_S = 90;
const OPERATIONS: FakeOperation[] = [
  'create',
  'start',
  'stop',
  'pause',
  'unpause',
  'remove',
  'removeVolume',
  'inspect',
  'list',
  'update',
];
/** Attempts of a webhook within a round, and none that is given up. */
const RETRIED_SOON = { retriesS: Array.from({ length: 40 }, () => 0.2), everyMs: 300 };
const DISK_FULL = new AppError('limit_exceeded', 'the container engine’s disk is full');

/** Berth processes inside this one, on a real Postgres and an engine in memory: thousands of rounds in an hour, and faults at exact places. */
export class FakeWorld implements World {
  readonly name = 'fake';
  readonly processes = PROCESSES;
  readonly actions: Record<string, Action>;
  readonly faults: Record<string, Fault>;
  readonly #engine = new FakeEngine();
  readonly #gateways = new FakeGateways();
  readonly #database: TestDatabase;
  readonly #own: Database;
  readonly #receiver: HookReceiver;
  readonly #members: Member[];
  #first: TestApp | undefined;
  /** What must be put back to have the right time. */
  #clockBehindS = 0;

  private constructor(database: TestDatabase, own: Database, receiver: HookReceiver) {
    this.#database = database;
    this.#own = own;
    this.#receiver = receiver;
    this.actions = { ...ACTIONS, ...LIFECYCLE, hook: hooking((name) => `${receiver.url}/${name}`) };
    const options = {
      database,
      engine: this.#engine,
      gateways: this.#gateways,
      env: { READY_TIMEOUT_MS: '5000', POOL_SIZE: '1', AGENT_IMAGES: 'berth-agent:other', WEBHOOK_ALLOW_PRIVATE: '127.0.0.1' },
      app: { webhooks: RETRIED_SOON },
    };
    const parts = { databaseUrl: database.url ?? '', options, first: () => this.#first };
    this.#members = Array.from({ length: PROCESSES }, () => new Member(parts));
    this.faults = this.#faultTable();
  }

  static async open(): Promise<FakeWorld> {
    const database = await testDatabase('postgres');
    await watchLeases(database.db);
    const url = `${database.url}${database.url?.includes('?') ? '&' : '?'}application_name=${OWN_NAME}`;
    const own = await openDatabase({ databaseUrl: url, dataDir: '', log: createLog('silent') });
    const world = new FakeWorld(database, own, await HookReceiver.start());
    await world.#startAll();
    return world;
  }

  get db() {
    return this.#own.db;
  }

  get adminKey(): string {
    return this.#first?.adminKey ?? '';
  }

  async ask(process: number, { method, path, body, key }: Parameters<World['ask']>[1]): Promise<Reply> {
    const { app } = this.#members[process]!;
    if (!app) throw new Error('the process does not run');
    const answer = await app.call(method, path, { key, body, signal: AbortSignal.timeout(60_000) });
    return { status: answer.status, body: answer.text === '' ? undefined : answer.json };
  }

  isUp(process: number): boolean {
    return this.#members[process]?.app !== undefined;
  }

  async heal(): Promise<void> {
    this.#engine.heal();
    this.#gateways.silent = false;
    for (const member of this.#members) member.mend();
    await this.#startAll();
    await shiftTime(this.db, this.#clockBehindS + AFTERWARDS_S, this.#dead());
    this.#clockBehindS = 0;
  }

  observe() {
    return this.#outside().list();
  }

  folders(): Promise<string[]> {
    return listFolders(this.#first?.config.linkDir ?? '');
  }

  async snapshotFiles(): Promise<string[]> {
    const dir = join(this.#first?.dataDir ?? '', 'snapshots');
    const found = await readdir(dir, { recursive: true }).catch(() => []);
    return found.filter((path) => path.includes('/'));
  }

  receivedAt(url: string): ReadonlySet<number> {
    const path = new URL(url).pathname;
    return new Set(this.#receiver.received.filter((one) => one.path === path).map(({ json }) => Number(json.seq)));
  }

  toldTo(instanceId: string) {
    return this.#gateways.configs.get(instanceId);
  }

  async close(): Promise<void> {
    // Not as an operator ends them: after a round that went wrong they may be cut off and frozen.
    for (const member of this.#members) await member.end();
    await this.#gateways.close();
    await this.#receiver.stop();
    await this.#own.close();
    await this.#database.close();
    if (this.#first) await rm(this.#first.dataDir, { recursive: true, force: true });
  }

  async #startAll(): Promise<void> {
    for (const member of this.#members) {
      await member.start();
      this.#first ??= member.app;
    }
  }

  #dead(): string[] {
    return this.#members.flatMap((member) => member.dead);
  }

  /** Somebody else at the same engine. */
  #outside(): FakeRuntime {
    return new FakeRuntime({ installationId: this.#first?.installation.id ?? '', engine: this.#engine });
  }

  #faultTable(): Record<string, Fault> {
    const some = (random: Random) => ({ process: random.between(0, PROCESSES - 1) });
    const member = (step: Step) => this.#members[Number(step.process)]!;
    const trap = (where: 'call' | 'message', what: 'kill' | 'freeze', most: number): Fault => ({
      weight: 3,
      choose: (random) => ({ ...some(random), at: random.between(1, most), when: random.pick(['before', 'after']) }),
      strike: (step) => member(step).trap(where, Number(step.at), step.when === 'after' ? 'after' : 'before', what),
    });
    return {
      kill_at_call: trap('call', 'kill', 10),
      kill_at_message: trap('message', 'kill', 120),
      freeze_at_call: trap('call', 'freeze', 10),
      freeze_at_message: trap('message', 'freeze', 120),
      kill: { weight: 1, choose: some, strike: (step) => member(step).kill() },
      restart: { weight: 2, choose: some, strike: (step) => member(step).start() },
      cut_database: { weight: 2, choose: some, strike: (step) => this.#cutDatabase(member(step)) },
      thaw: { weight: 2, choose: some, strike: (step) => member(step).mend() },
      process_clock: {
        weight: 1,
        choose: (random) => ({ ...some(random), seconds: random.pick([-7_200, -30, 30, 7_200]) }),
        strike: (step) => void (member(step).clockOffsetMs = Number(step.seconds) * 1_000),
      },
      database_clock: {
        weight: 2,
        choose: (random) => ({ seconds: random.pick([-20, -3, 3, 11, 11, 70]) }),
        strike: ({ seconds }) => this.#moveClock(Number(seconds)),
      },
      ...this.#engineFaults(),
    };
  }

  #engineFaults(): Record<string, Fault> {
    const operation = (random: Random) => ({ operation: random.pick(OPERATIONS) });
    const one = (random: Random) => ({ which: random.between(0, 20) });
    const named = (step: Step) => String(step.operation) as FakeOperation;
    return {
      engine_down: { weight: 1, strike: () => this.#engine.goDown() },
      engine_back: { weight: 1, strike: () => this.#engine.comeBack() },
      engine_fails: {
        weight: 3,
        choose: (random) => ({ ...operation(random), times: random.between(1, 4), late: random.chance(0.5) }),
        strike: (step) => this.#engine.fail(named(step), { times: Number(step.times), late: step.late === true }),
      },
      engine_slow: {
        weight: 2,
        choose: (random) => ({ ...operation(random), ms: random.between(20, 400) }),
        strike: (step) => this.#engine.delay(named(step), Number(step.ms)),
      },
      disk_full: { weight: 1, strike: () => this.#fillDisk() },
      die: { weight: 2, choose: one, strike: (step) => this.#withOne(step, (name) => this.#engine.die(name)) },
      oom: {
        weight: 1,
        choose: one,
        strike: (step) => this.#withOne(step, (name) => this.#engine.die(name, { oomKilled: true })),
      },
      vanish: { weight: 2, choose: one, strike: (step) => this.#withOne(step, (name) => this.#engine.vanish(name)) },
      pause: { weight: 1, choose: one, strike: (step) => this.#withOne(step, (name) => this.#outside().pause(name)) },
      stop: { weight: 1, choose: one, strike: (step) => this.#withOne(step, (name) => this.#outside().stop(name, 0)) },
      cut_links: { weight: 1, strike: () => this.#gateways.cut() },
      silence: { weight: 0.5, strike: () => void (this.#gateways.silent = true) },
      idle: { weight: 2, choose: one, strike: (step) => this.#everyNth(step, sql`idle_at = now()`) },
      another_image: {
        weight: 2,
        choose: (random) => ({ ...one(random), other: random.chance(0.5) }),
        strike: (step) =>
          this.#everyNth(
            step,
            sql`image = ${step.other === true ? 'berth-agent:other' : null}, due_at = now(), wish = wish + 1, updated_at = now()`,
          ),
      },
    };
  }

  #cutDatabase(member: Member): void {
    member.cutDatabase();
  }

  #fillDisk(): void {
    for (const operation of ['create', 'start'] as const) this.#engine.fail(operation, { times: 3, error: DISK_FULL });
  }

  async #moveClock(seconds: number): Promise<void> {
    await shiftTime(this.db, seconds, this.#dead());
    this.#clockBehindS = Math.max(0, this.#clockBehindS - seconds);
  }

  /** With an instance by its place in the order of names; what the fault needs may be missing, which is no fault then. */
  async #withOne({ which }: Step, strike: (name: string) => void | Promise<void>): Promise<void> {
    const names = [...this.#engine.instances.keys()].toSorted();
    const name = names[Number(which) % Math.max(1, names.length)];
    if (name === undefined) return;
    await Promise.resolve(strike(name)).catch((error: unknown) => {
      if (!(error instanceof AppError)) throw error;
    });
  }

  async #everyNth({ which }: Step, change: ReturnType<typeof sql>): Promise<void> {
    const changed = this.db.transaction().execute(async (trx) => {
      await sql`set local lock_timeout = '300ms'`.execute(trx);
      await sql`update deployments set ${change}
        where desired = 'running' and user_id is not null and uid % 3 = ${Number(which) % 3}`.execute(trx);
    });
    await changed.catch(ignoreHeld);
  }
}
