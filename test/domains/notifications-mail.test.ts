import { randomBytes } from 'node:crypto';
import { Writable } from 'node:stream';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SmtpMailer } from '../../src/domains/notifications/mailer.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { happen } from '../support/happen.js';
import { MailServer, type ReceivedMail } from '../support/mail-server.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;
// oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
type Json = any;

const codeIn = ({ text }: ReceivedMail): string => /\b\d{8}\b/.exec(text)?.[0] ?? '';
const wrongFor = (code: string): string => (code === '00000000' ? '00000001' : '00000000');

describe('a mail', () => {
  let server: MailServer;
  let lines = '';
  const log = createLog('debug', new Writable({ write: (chunk, _, done) => ((lines += String(chunk)), done()) }));
  const mail = { to: 'ada@example.com', subject: 'Hello', text: 'A word.\r\n.\r\nBcc: eve@example.com\r\n' };
  beforeAll(async () => {
    server = await MailServer.start();
  });
  afterAll(() => server.stop());

  const mailer = (options: object = {}) =>
    new SmtpMailer({ url: server.url, from: 'Berth <berth@example.com>', log, ...options });
  const signal = () => new AbortController().signal;

  test('is one mail to one address, whatever is in it', async () => {
    expect(await mailer().send({ ...mail, subject: 'One\r\nBcc: eve@example.com\r\n\r\nTwo' }, signal())).toEqual({});
    const [got] = await server.got(mail.to, 1);
    expect(got).toMatchObject({ from: 'berth@example.com', to: ['ada@example.com'], subject: 'One Bcc: eve@example.com Two' });
    expect(got!.raw.split('\r\n\r\n')[0]).not.toMatch(/^(Bcc|Cc):/m);
    expect(server.received).toHaveLength(1);
  });

  test('that a server does not take comes to its number, and no more is told of it', async () => {
    server.manner = 'refuses';
    expect(await mailer().send(mail, signal())).toEqual({
      error: 'the mail server answered 550',
      isFinal: true,
      isOfBerth: false,
    });
    server.manner = 'fills up';
    expect(await mailer().send(mail, signal())).toEqual({
      error: 'the mail server answered 452',
      isFinal: false,
      isOfBerth: false,
    });
    server.manner = 'drops';
    expect(await mailer().send(mail, signal())).toEqual({ error: 'the mail server cannot be reached', isOfBerth: true });
    server.manner = 'silent';
    expect(await mailer({ totalMs: 200 }).send(mail, signal())).toEqual({
      error: 'the mail server took too long',
      isOfBerth: true,
    });
    server.manner = 'well';
    const bad = server.url.replace('hunter2', 'wrong-password');
    expect(await mailer({ url: bad }).send(mail, signal())).toEqual({
      error: 'the mail server answered 535',
      isFinal: false,
      isOfBerth: true,
    });
    const nowhere = { url: 'smtp://berth:hunter2@127.0.0.1:9' };
    expect(await mailer(nowhere).send(mail, signal())).toEqual({ error: 'the mail server cannot be reached', isOfBerth: true });
    // The operator is told all but the password.
    expect(lines).toContain('mail-7.internal');
    expect(lines).not.toMatch(/hunter2|wrong-password/);
  });

  test('is given up at once by whoever ends', async () => {
    server.manner = 'silent';
    const end = new AbortController();
    const before = server.connections;
    const sending = mailer().send(mail, end.signal);
    await until(() => server.connections > before, 'the connection');
    end.abort(new Error('ending'));
    await expect(sending).rejects.toThrow('ending');
    server.manner = 'well';
  });

  test('waits for its turn where many are under way, within its time', async () => {
    const one = mailer();
    const outcomes = await Promise.all(Array.from({ length: 12 }, () => one.send(mail, signal())));
    expect(outcomes).toEqual(Array(12).fill({}));
    server.manner = 'silent';
    const slow = mailer({ totalMs: 300 });
    const late = await Promise.all(Array.from({ length: 6 }, () => slow.send(mail, signal())));
    expect(late).toEqual(Array(6).fill({ error: 'the mail server took too long', isOfBerth: true }));
    server.manner = 'well';
    expect(await slow.send(mail, signal())).toEqual({});
  });
});

describe.each(databaseKinds)('a channel of e-mail on %s', (kind) => {
  let app: TestApp;
  let server: MailServer;
  beforeAll(async () => {
    server = await MailServer.start();
    app = await startApp({
      database: kind,
      env: { SMTP_URL: server.url, SMTP_FROM: 'berth@example.com' },
      app: { notifications: { retriesS: [0, 0.1], everyMs: 200, mailMs: 5_000 } },
    });
  });
  afterAll(async () => {
    await app.stop();
    await server.stop();
  });

  const newAddress = () => `u${randomBytes(6).toString('hex')}@example.com`;
  const add = (user: User, address: string, more: object = {}) =>
    app.post(`/api/v1/users/${user.id}/notifications/channels`, user.key, { name: 'mail', kind: 'email', address, ...more });
  const at = (user: User, { id }: Json, what: string, body?: unknown) =>
    app.post(`/api/v1/users/${user.id}/notifications/channels/${id}${what}`, user.key, body);

  async function confirmed(user: User, address = newAddress()): Promise<Json> {
    const made = await add(user, address);
    expect(made.status, made.text).toBe(201);
    const [mail] = await server.got(address, 1);
    const answer = await at(user, made.json, '/confirm', { code: codeIn(mail!) });
    expect(answer.status, answer.text).toBe(200);
    return answer.json;
  }

  test('gets a code and nothing else until that comes back; then what rules find', async () => {
    const user = await app.user();
    const address = newAddress();
    const made = (await add(user, address)).json;
    expect(made).toMatchObject({ status: 'unconfirmed', target: 'u…@example.com', code_sent: true });
    const [mail] = await server.got(address, 1);
    const rule = { name: 'R', kind: 'event', events: ['test.*'], channels: [made.id] };
    expect((await app.post('/api/v1/alerts', user.key, rule)).status).toBe(201);
    await happen(app.database.db, user.id, 'test.early');
    await until(async () => (await app.get('/api/v1/notifications', user.key)).json.data.length === 1, 'the inbox');
    expect((await at(user, made, '/test')).json.error).toBe('the address is not confirmed');
    const code = codeIn(mail!);
    expect((await at(user, made, '/confirm', { code: wrongFor(code) })).json.fields[0].path).toBe('code');
    const done = await at(user, made, '/confirm', { code });
    expect(done.json).toMatchObject({ status: 'active', version: 2 });
    expect((await at(user, made, '/confirm', { code })).json.error).toBe('the channel waits for no code');
    expect((await at(user, made, '/code')).json.error).toBe('the channel needs no code');
    await happen(app.database.db, user.id, 'test.late');
    const mails = await server.got(address, 2);
    expect(mails[1]).toMatchObject({ from: 'berth@example.com', to: [address], subject: '[warning] R: test.late' });
    expect((await at(user, made, '/test')).json).toEqual({ delivered: true, error: null });
    expect((await server.got(address, 3)).map(({ subject }) => subject)).toEqual([
      'Confirm this address for notifications of Berth',
      '[warning] R: test.late',
      'Test of channel mail',
    ]);
    const seen = (await app.get(`/api/v1/users/${user.id}/events`, user.key)).text;
    const rows = JSON.stringify(await app.database.db.selectFrom('notification_channels').selectAll().execute());
    for (const text of [seen, rows]) for (const hidden of [address, code]) expect(text).not.toContain(hidden);
  });

  test('is confirmed by the last code alone, within some guesses and a time', async () => {
    const user = await app.user();
    const address = newAddress();
    const made = (await add(user, address)).json;
    const [first] = await server.got(address, 1);
    expect((await at(user, made, '/code')).json).toEqual({ delivered: true, error: null });
    const [, second] = await server.got(address, 2);
    expect((await at(user, made, '/confirm', { code: codeIn(first!) })).status).toBe(
      codeIn(first!) === codeIn(second!) ? 200 : 400,
    );
    for (let n = 0; n < 4; n++) await at(user, made, '/confirm', { code: wrongFor(codeIn(second!)) });
    const late = await at(user, made, '/confirm', { code: codeIn(second!) });
    expect([late.status, late.json.error]).toEqual([409, 'the code is not good any more: ask for another one']);
    await at(user, made, '/code');
    const [, , third] = await server.got(address, 3);
    const past = new Date(Date.now() - 1_000);
    await app.database.db.updateTable('notification_channels').set({ code_until: past }).where('id', '=', made.id).execute();
    expect((await at(user, made, '/confirm', { code: codeIn(third!) })).status).toBe(409);
    // Guesses that come together are counted one by one.
    await at(user, made, '/code');
    await server.got(address, 4);
    const many = await Promise.all(Array.from({ length: 12 }, () => at(user, made, '/confirm', { code: 'x' })));
    expect(many.map(({ status }) => status).toSorted()).toEqual([...Array<number>(5).fill(400), ...Array<number>(7).fill(409)]);
    // Four of a day to one address, whoever asks.
    const fifth = await at(user, made, '/code');
    expect([fifth.status, fifth.json.code]).toEqual([429, 'rate_limited']);
    const other = await app.user();
    expect((await add(other, address.toUpperCase())).status).toBe(429);
    expect((await app.get('/api/v1/notifications/channels', other.key)).json.data).toEqual([]);
    expect(server.received.filter(({ to }) => to.includes(address))).toHaveLength(4);
  });

  test('mails no more codes than a user may ask for, however often channels are made and deleted', async () => {
    const user = await app.user();
    const statuses: number[] = [];
    for (let n = 0; n < 12; n++) {
      const made = await add(user, newAddress());
      statuses.push(made.status);
      if (made.status === 201) await app.call('DELETE', `/api/v1/notifications/channels/${made.json.id}`, { key: user.key });
    }
    expect(statuses).toEqual([...Array<number>(10).fill(201), 429, 429]);
  });

  test('has to be confirmed again where its address changes', async () => {
    const user = await app.user();
    const [mine, theirs] = [newAddress(), newAddress()];
    const channel = await confirmed(user, mine);
    const path = `/api/v1/notifications/channels/${channel.id}`;
    const changed = await app.call('PUT', path, { key: user.key, body: { address: theirs } });
    expect(changed.json).toMatchObject({ status: 'unconfirmed', code_sent: true });
    const [mail] = await server.got(theirs, 1);
    await app.post('/api/v1/alerts', user.key, { name: 'R', kind: 'event', events: ['test.*'], channels: [channel.id] });
    await happen(app.database.db, user.id, 'test.happened');
    await until(async () => (await app.get('/api/v1/notifications', user.key)).json.data.length === 1, 'the inbox');
    expect((await at(user, channel, '/confirm', { code: codeIn(mail!) })).json.status).toBe('active');
    expect(server.received.filter(({ to }) => to.includes(theirs))).toHaveLength(1);
  });

  /** Sessions of this database that wait for a row somebody holds. */
  async function waiting(): Promise<number> {
    const { rows } = await sql<{ n: number }>`
      select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
      app.database.db,
    );
    return rows[0]?.n ?? 0;
  }

  // On PGlite there is one connection: nobody can be held in the midst of what they do.
  const orders = { pglite: [], postgres: [['confirm', 'change'] as const, ['change', 'confirm'] as const] }[kind];
  test.each(orders)(
    'is never confirmed at an address by the code of the one before, where %s and %s come together',
    async (...order) => {
      const user = await app.user();
      const [mine, theirs] = [newAddress(), newAddress()];
      const channel = (await add(user, mine)).json;
      const code = codeIn((await server.got(mine, 1))[0]!);
      const path = `/api/v1/notifications/channels/${channel.id}`;
      const calls = {
        confirm: () => at(user, channel, '/confirm', { code }),
        change: () => app.call('PUT', path, { key: user.key, body: { address: theirs } }),
      };
      const queued = await app.database.db.transaction().execute(async (trx) => {
        await sql`select from notification_channels where id = ${channel.id} for no key update`.execute(trx);
        const first = calls[order[0]]();
        await until(async () => (await waiting()) >= 1, 'the first to wait');
        const second = calls[order[1]]();
        await until(async () => (await waiting()) >= 2, 'both to wait');
        return { first, second };
      });
      const answers = { [order[0]]: await queued.first, [order[1]]: await queued.second };
      expect(answers['change']!.json).toMatchObject({ status: 'unconfirmed', code_sent: true });
      // Whoever guessed before the change may have confirmed before it, too: that is the first address, and is over.
      expect(order[0] === 'confirm' ? [200, 409] : [400]).toContain(answers['confirm']!.status);
      expect((await app.get(path, user.key)).json.status).toBe('unconfirmed');
      expect((await at(user, channel, '/confirm', { code })).json.fields[0].path).toBe('code');
      const [mail] = await server.got(theirs, 1);
      expect((await at(user, channel, '/confirm', { code: codeIn(mail!) })).json.status).toBe('active');
    },
  );

  test('says whether its code was sent, and tries again what the server does not take', async () => {
    const user = await app.user();
    const channel = await confirmed(user);
    await app.post('/api/v1/alerts', user.key, { name: 'R', kind: 'event', events: ['test.*'], channels: [channel.id] });
    const last = async () => {
      const [row] = (await app.get('/api/v1/notifications?limit=1', user.key)).json.data;
      return row && (await app.get(`/api/v1/notifications/${row.id}`, user.key)).json.deliveries[0];
    };
    server.manner = 'silent';
    expect((await add(user, newAddress())).json).toMatchObject({ status: 'unconfirmed', code_sent: false });
    server.manner = 'drops';
    await happen(app.database.db, user.id, 'test.one');
    await until(async () => (await last())?.status === 'failed', 'the attempts to be over');
    expect(await last()).toMatchObject({ tries: 3, error: 'the mail server cannot be reached' });
    server.manner = 'refuses';
    await happen(app.database.db, user.id, 'test.two');
    await until(async () => (await last())?.error === 'the mail server answered 550', 'the refusal');
    expect(await last()).toMatchObject({ tries: 1, status: 'failed' });
    expect((await app.get(`/api/v1/notifications/channels/${channel.id}`, user.key)).json.status).toBe('failing');
    server.manner = 'well';
    await happen(app.database.db, user.id, 'test.three');
    await until(async () => (await last())?.status === 'delivered', 'the mail');
  });

  test('takes plain addresses alone', async () => {
    const user = await app.user();
    for (const address of [
      'ada',
      'ada@localhost',
      'ada@example.com, eve@example.com',
      'ada@example.com\r\nBcc: eve@example.com',
      '"ada eve"@example.com',
      '<ada@example.com>',
      'ada@[127.0.0.1]',
      'ada@exa mple.com',
      'ädä@example.com',
      `${'a'.repeat(65)}@example.com`,
      'ada@example.com\n',
    ]) {
      const answer = await add(user, address);
      expect([answer.status, answer.json.fields?.[0]?.path, address]).toEqual([400, 'address', address]);
    }
    expect((await add(user, newAddress(), { url: 'https://example.com/' })).json.fields[0].path).toBe('url');
    expect((await add(user, newAddress(), { secret: 'x' })).json.fields[0].path).toBe('secret');
  });
});
