import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import pg from 'pg';
import type { Bench } from './support/bench.js';
import { Berth } from './support/berth.js';
import { buildBerth } from './support/build.js';
import { Child, residentMib } from './support/child.js';
import { requestText } from './support/connection.js';
import { type Row, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { freePort } from './support/world.js';

const USERS = 10;
const AT = /"at":"([^"]+)"/g;

/**
 * From the commit of an event to its client, at the process that wrote it and at another on the same Postgres; then with a thousand streams. The
 * time of an event is the database's clock just before the commit, in whole milliseconds, so what is shown is up to one more than it was.
 */
export const events: Bench = async ({ scope, scaled, databases }) => {
  const postgres = (await databases()).find(({ kind }) => kind === 'postgres')?.url;
  if (postgres === undefined) return [];
  const adminKey = randomBytes(32).toString('hex');
  const here = await Berth.start(scope, { runtime: 'process', postgres, env: { ADMIN_API_KEY: adminKey, LOG_LEVEL: 'warn' } });
  const otherPort = await startBeside(scope, here, adminKey);
  const users = await Promise.all(
    Array.from({ length: USERS }, (_, n) =>
      here.call('POST', '/api/v1/users', adminKey, { name: `bench${n}`, tier: 'business' }),
    ),
  );
  const rounds = scaled(200);
  const floor = await notifyTimes(here.databaseUrl ?? '', rounds);
  const change = (user: { id: string; api_key: string }, n: number) =>
    here.call('PUT', `/api/v1/users/${user.id}/template-variables`, user.api_key, { n: String(n) });

  const few = [await Listener.open(here.port, users[0]), await Listener.open(otherPort, users[0])] as const;
  for (let n = 0; n < rounds; n++) {
    await change(users[0], n);
    await Promise.all(few.map((listener) => listener.got(n + 1)));
  }
  for (const listener of few) listener.close();

  const count = scaled(1_000);
  const before = residentMib(here.child.pid);
  const many = await Promise.all(Array.from({ length: count }, (_, n) => Listener.open(here.port, users[n % USERS])));
  const after = residentMib(here.child.pid);
  for (let n = 0; n < scaled(20); n++) {
    await Promise.all(users.map((user) => change(user, 1_000 + n)));
    await Promise.all(many.map((listener) => listener.got(n + 1)));
  }
  const fanned = new Times();
  for (const listener of many) {
    fanned.addAll(listener.times);
    listener.close();
  }
  const [same, other] = few.map((listener) => timesOf(listener.times)) as [Times, Times];
  const kib = ((after - before) * 1024) / count;
  return [
    {
      title: 'events: from the commit to the client (postgres)',
      rows: [
        withP95('floor: NOTIFY to a listener, nothing else', floor),
        withP95('a stream at the process that wrote it', same),
        withP95('a stream at another process', other),
        withP95(`${count} streams of ${USERS} users, an event of each at once`, fanned),
        { what: `memory a stream, of ${count}`, n: count, value: `${kib.toFixed(1)} KiB` },
      ],
      verdicts: [
        { what: 'same process, p95', value: same.at(0.95), unit: 'ms', atMost: 25 },
        { what: 'another process, p95', value: other.at(0.95), unit: 'ms', atMost: 25 },
      ],
      notes: ['The clients of the thousand streams run on the same cores.'],
    },
  ];
};

function withP95(what: string, times: Times): Row {
  return { ...rowOf(what, times), value: `p95 ${times.at(0.95).toFixed(1)} ms` };
}

function timesOf(values: number[]): Times {
  const times = new Times();
  times.addAll(values);
  return times;
}

async function startBeside(scope: Scope, berth: Berth, adminKey: string): Promise<number> {
  const port = await freePort();
  const env = {
    PORT: String(port),
    DATA_DIR: berth.dataDir,
    DATABASE_URL: berth.databaseUrl ?? '',
    RUNTIME: 'process',
    POOL_SIZE: '0',
    ADMIN_API_KEY: adminKey,
    LOG_LEVEL: 'warn',
  };
  const child = await Child.start([(await buildBerth()).main], env, `${berth.dataDir}/other.log`);
  scope.add(() => child.stop());
  await child.until(() =>
    fetch(`http://127.0.0.1:${port}/health`).then(
      () => true,
      () => undefined,
    ),
  );
  return port;
}

async function notifyTimes(url: string, rounds: number): Promise<Times> {
  const [sender, listener] = [new pg.Client({ connectionString: url }), new pg.Client({ connectionString: url })];
  await Promise.all([sender.connect(), listener.connect()]);
  await listener.query('listen bench');
  const times = new Times();
  for (let n = 0; n < rounds; n++) {
    const heard = new Promise<void>((resolve) => listener.once('notification', () => resolve()));
    const begun = performance.now();
    await Promise.all([sender.query(`select pg_notify('bench', '${n}')`), heard]);
    times.add(performance.now() - begun);
  }
  await Promise.all([sender.end(), listener.end()]);
  return times;
}

/** A stream of events that does as little as can be done with them. */
class Listener {
  readonly times: number[] = [];
  readonly #socket: Socket;
  #heard: (() => void) | undefined;
  #fail: () => void = () => {};
  #waits = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Resolves once the stream stands. */
  static async open(port: number, user: { id: string; api_key: string }): Promise<Listener> {
    const socket = connect({ host: '127.0.0.1', port });
    const listener = new Listener(socket);
    const path = `/api/v1/users/${user.id}/events?stream=true&type=template.*`;
    socket.write(requestText('GET', path, { 'x-api-key': user.api_key }));
    await new Promise<void>((resolve, reject) => {
      let head = '';
      const onHead = (bytes: Buffer) => {
        head += bytes.toString('latin1');
        if (!head.includes('event: ready')) return;
        socket.off('data', onHead);
        socket.on('data', (more: Buffer) => listener.#take(more.toString('latin1')));
        resolve();
      };
      socket.on('data', onHead).once('error', reject);
      socket.once('end', () => listener.#fail());
    });
    return listener;
  }

  /** Resolves when so many events have come. */
  got(count: number): Promise<void> {
    this.#waits = count;
    if (this.times.length >= count) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#heard = resolve;
      this.#fail = () => reject(new Error('a stream ended before its time'));
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    const now = performance.timeOrigin + performance.now();
    for (const [, at = ''] of text.matchAll(AT)) this.times.push(now - Date.parse(at));
    if (this.times.length >= this.#waits) this.#heard?.();
  }
}
