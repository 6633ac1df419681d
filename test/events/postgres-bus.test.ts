import { sql } from 'kysely';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Line, type LineEvents, notify, openLine } from '../../src/db/line.js';
import { openDatabase } from '../../src/db/open.js';
import type { Bus } from '../../src/events/bus.js';
import { PostgresBus } from '../../src/events/postgres-bus.js';
import { createLog } from '../../src/lib/log.js';
import { startChild } from '../support/child.js';
import { type TestDatabase, testDatabase } from '../support/database.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const log = createLog('silent');
let database: TestDatabase;
const closing: (() => Promise<void>)[] = [];
beforeEach(async () => {
  database = await testDatabase('postgres');
});
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  await database.close();
});

function recorded(bus: Bus): string[] {
  const heard: string[] = [];
  bus.subscribe('*', (id, topic) => heard.push(`${topic} ${id}`));
  return heard;
}

async function otherBus(): Promise<Bus> {
  const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log });
  closing.push(other.close);
  return other.bus;
}

/** A bus whose line can be forbidden, and that notices a dead line within a fraction of a second. */
async function frailBus(options: { url?: string; beatMs?: number } = {}) {
  const pool = new pg.Pool({ connectionString: database.url });
  const gate = { open: true, connects: 0 };
  const connect = (events: LineEvents): Promise<Line> => {
    gate.connects += 1;
    if (!gate.open) return Promise.reject(new Error('no way through'));
    return openLine({ connectionString: options.url ?? database.url, application_name: 'frail' }, events);
  };
  const bus = new PostgresBus({ connect, sendAside: (texts) => notify(pool, texts), log, beatMs: options.beatMs });
  closing.push(() => pool.end());
  closing.push(() => bus.close());
  await bus.open();
  const lost = vi.fn();
  bus.onTrustLost(lost);
  return { bus, gate, lost, heard: recorded(bus) };
}

async function terminate(name: string): Promise<void> {
  await sql`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name = ${name}`.execute(database.db);
}

describe('messages', () => {
  test('reach this process at once and only once, and the other process', async () => {
    const other = recorded(await otherBus());
    const own = recorded(database.bus);
    database.bus.publish('agent', 'agt_1');
    expect(own).toEqual(['agent agt_1']);
    await expect.poll(() => other).toEqual(['agent agt_1']);
    database.bus.publish('key', 'last');
    await expect.poll(() => other).toEqual(['agent agt_1', 'key last']);
    expect(own).toEqual(['agent agt_1', 'key last']);
  });

  test('go both ways between two operating-system processes', async () => {
    const peer = startChild(new URL('./fixtures/peer.ts', import.meta.url), [database.url!]);
    closing.push(() => peer.kill());
    const heard = recorded(database.bus);
    await peer.hear(/^listening$/);
    database.bus.publish('user', 'usr_1');
    await peer.hear(/^heard user usr_1$/);
    peer.say('deployment dep_1');
    await expect.poll(() => heard).toEqual(['user usr_1', 'deployment dep_1']);
    expect(peer.lines.filter((line) => line.startsWith('heard'))).toEqual(['heard user usr_1', 'heard deployment dep_1']);
  });

  test('of one moment go out together, each thing once, in order', async () => {
    const sent: string[][] = [];
    const line: Line = { send: (texts) => (sent.push(texts), Promise.resolve()), close: () => Promise.resolve(), cut: () => {} };
    const bus = new PostgresBus({
      connect: () => Promise.resolve(line),
      sendAside: () => Promise.reject(new Error('not needed')),
      log,
    });
    await bus.open();
    for (let i = 0; i < 1_200; i++) bus.publish('event', `usr_${i % 600}`);
    await bus.close();
    expect(sent.map((batch) => batch.length)).toEqual([500, 100]);
    expect(sent.flat().map((text) => (JSON.parse(text) as { id: string }).id)).toEqual(
      Array.from({ length: 600 }, (_, i) => `usr_${i}`),
    );
  });

  test('that are not of Berth do no harm', async () => {
    const heard = recorded(database.bus);
    for (const text of ['', 'null', '{', '{"topic":"*","id":"x","from":"y"}', '{"topic":"key","id":5,"from":"y"}']) {
      await sql`select pg_notify('berth', ${text})`.execute(database.db);
    }
    await sql`select pg_notify('berth', '{"topic":"key","id":"key_1","from":"elsewhere"}')`.execute(database.db);
    await expect.poll(() => heard).toEqual(['key key_1']);
  });

  test('too long for Postgres do not hold up the others', async () => {
    const heard = recorded(await otherBus());
    database.bus.publish('key', 'x'.repeat(10_000));
    database.bus.publish('key', 'key_7');
    await expect.poll(() => heard).toEqual(['key key_7']);
  });

  test('published last before the close still go out', async () => {
    const heard = recorded(database.bus);
    const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log });
    other.bus.publish('key', 'key_9');
    await other.close();
    await expect.poll(() => heard).toEqual(['key key_9']);
  });
});

describe('a line that breaks', () => {
  test('costs trust until it is back, and messages come through again', async () => {
    const { bus, gate, lost, heard } = await frailBus();
    expect(bus.trusted).toBe(true);
    gate.open = false;
    await terminate('frail');
    await expect.poll(() => bus.trusted).toBe(false);
    expect(lost).toHaveBeenCalledOnce();
    await expect.poll(() => gate.connects).toBeGreaterThan(2);
    gate.open = true;
    await expect.poll(() => bus.trusted).toBe(true);
    database.bus.publish('key', 'key_2');
    await expect.poll(() => heard).toEqual(['key key_2']);
    expect(lost).toHaveBeenCalledOnce();
  });

  test('does not keep this process from telling the others', async () => {
    const { bus, gate } = await frailBus();
    const other = recorded(database.bus);
    gate.open = false;
    await terminate('frail');
    await expect.poll(() => bus.trusted).toBe(false);
    bus.publish('key', 'key_3');
    await expect.poll(() => other).toEqual(['key key_3']);
  });

  test('without a word is noticed by the beat that does not come back', async () => {
    const proxy = await startTcpProxy(database.url!);
    closing.push(() => proxy.stop());
    const { bus, lost, heard } = await frailBus({ url: proxy.url, beatMs: 100 });
    const other = recorded(database.bus);
    proxy.freeze();
    bus.publish('key', 'key_4');
    await expect.poll(() => lost.mock.calls.length).toBe(1);
    await expect.poll(() => bus.trusted).toBe(true);
    await expect.poll(() => other).toEqual(['key key_4']);
    database.bus.publish('key', 'key_5');
    await expect.poll(() => heard).toEqual(['key key_4', 'key key_5']);
  });

  test('stays up while the beat comes back', async () => {
    const { bus, gate, lost } = await frailBus({ beatMs: 400 });
    const beats = new pg.Client({ connectionString: database.url });
    await beats.connect();
    closing.push(() => beats.end());
    let heard = 0;
    beats.on('notification', () => (heard += 1));
    await beats.query('listen berth');
    await expect.poll(() => heard, { timeout: 10_000 }).toBeGreaterThan(2);
    expect([bus.trusted, gate.connects, lost.mock.calls.length]).toEqual([true, 1, 0]);
  });

  test('loses no message when the whole database goes away for a while', async () => {
    const proxy = await startTcpProxy(database.url!);
    const away = await openDatabase({ databaseUrl: proxy.url, dataDir: '', log });
    closing.push(async () => {
      await away.close();
      await proxy.stop();
    });
    const heard = recorded(database.bus);
    await proxy.stop();
    await expect.poll(() => away.bus.trusted).toBe(false);
    for (let i = 0; i < 20; i++) away.bus.publish('agent', `agt_${i}`);
    await proxy.start();
    await expect.poll(() => away.bus.trusted, { timeout: 5_000 }).toBe(true);
    await expect.poll(() => new Set(heard).size).toBe(20);
  });

  test('can be closed while it is down, and while its peer does not answer', async () => {
    const proxy = await startTcpProxy(database.url!);
    const { bus } = await frailBus({ url: proxy.url, beatMs: 60_000 });
    proxy.freeze();
    bus.publish('key', 'key_6');
    await bus.close();
    const down = await frailBus();
    down.gate.open = false;
    await terminate('frail');
    await expect.poll(() => down.bus.trusted).toBe(false);
    await down.bus.close();
    await proxy.stop();
  });
});
