import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Database, openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { listFolders } from '../../src/link/folder.js';
import { PrivateEngine } from '../runtime/private-engine.js';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { type Action, ACTIONS, KEEP_NOTE } from './actions.js';
import { DatabaseLine } from './database-line.js';
import { OWN_NAME, watchLeases } from './lease-watch.js';
import type { Random } from './random.js';
import type { Step } from './script.js';
import { shiftTime } from './time-shift.js';
import type { Fault, Reply, World } from './world.js';

const run = promisify(execFile);
const PROCESSES = 2;
const AFTERWARDS_S = 90;
const ENGINE_MIB = 2_000;

interface Member {
  berth: BerthProcess;
  line: DatabaseLine;
  isUp: boolean;
}

/** Berth as operators run it, twice, on a Postgres and with an engine of its own: killed, frozen and cut off for real. */
export class RealWorld implements World {
  readonly name = 'real';
  readonly processes = PROCESSES;
  readonly actions: Record<string, Action> = { ...ACTIONS, keep_note: KEEP_NOTE };
  readonly faults: Record<string, Fault>;
  readonly adminKey: string;
  readonly #engine: PrivateEngine;
  readonly #database: TestDatabase;
  readonly #own: Database;
  readonly #members: Member[];
  #isFull = false;

  private constructor(parts: {
    engine: PrivateEngine;
    database: TestDatabase;
    own: Database;
    members: Member[];
    adminKey: string;
  }) {
    this.#engine = parts.engine;
    this.#database = parts.database;
    this.#own = parts.own;
    this.#members = parts.members;
    this.adminKey = parts.adminKey;
    this.faults = this.#faultTable();
  }

  static async open(image: string): Promise<RealWorld> {
    const engine = await PrivateEngine.create(ENGINE_MIB);
    await engine.start();
    await run('sh', ['-c', `docker save ${image} | docker -H ${engine.host} load`]);
    const database = await testDatabase('postgres');
    await watchLeases(database.db);
    const given = new URL(database.url ?? '');
    given.searchParams.set('application_name', OWN_NAME);
    const own = await openDatabase({ databaseUrl: given.href, dataDir: '', log: createLog('silent') });
    const members: Member[] = [];
    for (let i = 0; i < PROCESSES; i++) {
      const line = await DatabaseLine.open(given.searchParams.get('host') ?? '');
      const url = `postgres://${given.username}@127.0.0.1:${line.port}${given.pathname}`;
      const env = { DATABASE_URL: url, DOCKER_HOST: engine.host, AGENT_IMAGE: image, READY_TIMEOUT_MS: '10000' };
      const berth = await BerthProcess.prepare(env, members[0]?.berth.dataDir);
      await berth.start();
      members.push({ berth, line, isUp: true });
    }
    return new RealWorld({ engine, database, own, members, adminKey: await members[0]!.berth.adminKey() });
  }

  get db() {
    return this.#own.db;
  }

  isUp(process: number): boolean {
    return this.#members[process]?.isUp === true;
  }

  async ask(process: number, { method, path, body, text, key }: Parameters<World['ask']>[1]): Promise<Reply> {
    const response = await fetch(`${this.#members[process]!.berth.url}${path}`, {
      method,
      headers: { 'x-api-key': key, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(text === undefined ? {} : { body: text }),
      signal: AbortSignal.timeout(120_000),
    });
    const said = await response.text();
    const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
    return { status: response.status, body: isJson ? JSON.parse(said) : said };
  }

  async heal(): Promise<void> {
    this.#engine.thaw();
    if (this.#isFull) await rm(join(this.#engine.dataRoot, 'full'), { force: true });
    this.#isFull = false;
    await this.#engine.start();
    for (const member of this.#members) {
      member.line.mend();
      member.berth.signal('SIGCONT');
      await this.#start(member);
    }
    await shiftTime(this.db, AFTERWARDS_S, await this.#dead());
  }

  observe() {
    return this.#members[0]!.berth.engine((runtime) => runtime.list());
  }

  folders(): Promise<string[]> {
    return listFolders(join(this.#members[0]!.berth.dataDir, 'link'));
  }

  async snapshotFiles(): Promise<string[]> {
    return [];
  }

  receivedAt(): ReadonlySet<number> {
    return new Set();
  }

  toldTo(): undefined {
    return undefined;
  }

  async close(): Promise<void> {
    await this.heal();
    for (const { berth } of this.#members.toReversed()) await berth.kill();
    await this.#members[0]!.berth.destroy();
    for (const { line } of this.#members) line.close();
    await this.#own.close();
    await this.#database.close();
    await this.#engine.dispose();
  }

  async #start(member: Member): Promise<void> {
    if (member.isUp) return;
    await member.berth.start();
    member.isUp = true;
  }

  async #kill(member: Member): Promise<void> {
    member.isUp = false;
    await member.berth.kill('SIGKILL');
  }

  /** Processes other than those that run now. */
  async #dead(): Promise<string[]> {
    const running = new Set(this.#members.map(({ berth }) => [...berth.output.matchAll(/"process":"(p\w+)"/g)].at(-1)?.[1]));
    const rows = await this.db.selectFrom('processes').select('id').execute();
    return rows.map(({ id }) => id).filter((id) => !running.has(id));
  }

  async #withOne({ which }: Step, ...command: string[]): Promise<void> {
    const { stdout } = await run('docker', ['-H', this.#engine.host, 'ps', '-q', '--no-trunc'], { timeout: 3_000 }).catch(() => ({
      stdout: '',
    }));
    const ids = stdout.split('\n').filter(Boolean).toSorted();
    const id = ids[Number(which) % Math.max(1, ids.length)];
    // Where the engine is away too, nobody can do it.
    if (id !== undefined)
      await run('docker', ['-H', this.#engine.host, ...command, id], { timeout: 5_000 }).catch(() => undefined);
  }

  #faultTable(): Record<string, Fault> {
    const some = (random: Random) => ({ process: random.between(0, PROCESSES - 1) });
    const one = (random: Random) => ({ which: random.between(0, 20) });
    const member = (step: Step) => this.#members[Number(step.process)]!;
    return {
      kill: { weight: 4, choose: some, strike: (step) => this.#kill(member(step)) },
      // One that cannot reach its database waits for it, and so would whoever starts it.
      restart: { weight: 2, choose: some, strike: (step) => (member(step).line.isCut ? undefined : this.#start(member(step))) },
      freeze: { weight: 4, choose: some, strike: (step) => member(step).berth.signal('SIGSTOP') },
      cut_database: { weight: 2, choose: some, strike: (step) => member(step).line.cut() },
      mend_database: { weight: 1, choose: some, strike: (step) => member(step).line.mend() },
      database_clock: { weight: 2, strike: async () => shiftTime(this.db, 11, []) },
      engine_frozen: { weight: 2, strike: () => this.#engine.freeze() },
      engine_stopped: { weight: 2, strike: () => this.#stopEngine() },
      disk_full: { weight: 1, strike: () => this.#fill() },
      container_killed: { weight: 2, choose: one, strike: (step) => this.#withOne(step, 'kill') },
      container_removed: { weight: 2, choose: one, strike: (step) => this.#withOne(step, 'rm', '-f') },
      container_paused: { weight: 1, choose: one, strike: (step) => this.#withOne(step, 'pause') },
    };
  }

  /** A frozen one would not hear of it. */
  async #stopEngine(): Promise<void> {
    this.#engine.thaw();
    await this.#engine.stop();
  }

  async #fill(): Promise<void> {
    this.#isFull = true;
    // It ends by having no room left.
    await run('dd', ['if=/dev/zero', `of=${join(this.#engine.dataRoot, 'full')}`, 'bs=1M']).catch(() => undefined);
  }
}
