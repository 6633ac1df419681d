import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

let database: TestDatabase;
let first: BerthProcess;
let second: BerthProcess;
let key: string;

beforeAll(async () => {
  database = await testDatabase('postgres');
  const env = { DATABASE_URL: database.url ?? '', AGENT_IMAGE: process.env.AGENT_IMAGE ?? 'berth-agent:latest' };
  first = await BerthProcess.prepare(env);
  await first.start();
  second = await BerthProcess.prepare(env, first.dataDir);
  await second.start();
  const user = await first.call('POST', '/api/v1/users', await first.adminKey(), { name: 'resumer', tier: 'pro' });
  key = user.json.api_key;
  await first.call('POST', '/api/v1/agents', key, { name: 'a' });
  for (const berth of [first, second]) expect((await chat(berth, 'hello')).json.message).toBe('You said: hello');
}, 480_000);
afterAll(async () => {
  await second.kill();
  await first.destroy();
  await database.close();
});

const say = (content: string) => ({ messages: [{ role: 'user', content }] });
const chat = (berth: BerthProcess, content: string) => berth.call('POST', '/api/v1/agents/a/chat', key, say(content));
const words = (count: number) => Array.from({ length: count }, (_, i) => `w${i + 1}`).join(' ');
/** As if it were a minute later: what is not heard of for so long is dead. */
const aMinuteLater = () => sql`update processes set heartbeat_at = now() - interval '1 minute'`.execute(database.db);

test('kill -9 in mid-stream: another process tells the rest, each token once, the lost model call made again as an attempt of its own', async () => {
  const reader = await EventReader.open(`${first.url}/api/v1/agents/a/chat/stream`, {
    key,
    body: { ...say('/slow 60 50'), resumable: true },
  });
  const id: string = (await reader.first('start')).data.turn_id;
  await reader.until(() => reader.events.length > 8, 'some words', 60_000);
  await first.kill('SIGKILL');
  await reader.end();
  const rest = await EventReader.open(`${second.url}/api/v1/agents/a/turns/${id}/stream`, {
    method: 'GET',
    key,
    headers: { 'last-event-id': reader.events.at(-1)!.id! },
  });
  await rest.end(60_000);
  const events = [...reader.events, ...rest.events];
  const numbers = events.slice(0, -1).map((event) => Number(event.id?.split(':')[1]));
  expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
  expect(new Set(numbers).size).toBe(numbers.length);
  const at = events.findIndex(({ event }) => event === 'restarted');
  const text = (some: typeof events) => some.map(({ event, data }) => (event === 'text' ? data.delta : '')).join('');
  expect(words(60).startsWith(text(events.slice(0, at)))).toBe(true);
  expect(text(events.slice(at))).toBe(words(60));
  expect(rest.events.at(-1)).toMatchObject({ event: 'done', data: { turn_id: id, message: words(60) } });
  await aMinuteLater();
  const turn = async () => (await second.call('GET', `/api/v1/agents/a/turns/${id}`, key)).json;
  await until(
    async () => (await turn()).calls.every(({ status }: { status: string }) => status !== 'open'),
    'the lost call to be settled',
    60_000,
  );
  expect(await turn()).toMatchObject({
    status: 'finished',
    message: words(60),
    calls: [
      { attempt: 1, status: 'cut_off' },
      { attempt: 2, status: 'finished', completion_tokens: 60 },
    ],
  });
}, 480_000);

test('kill -9 under a call with an Idempotency-Key: asked again, it is told the one answer of the one turn', async () => {
  await first.start();
  expect((await chat(first, 'back again')).status).toBe(200);
  const asking = (berth: BerthProcess) =>
    fetch(`${berth.url}/api/v1/agents/a/chat`, {
      method: 'POST',
      headers: { 'x-api-key': key, 'content-type': 'application/json', 'idempotency-key': 'once' },
      body: JSON.stringify(say('/slow 40 50')),
    });
  const lost = asking(first);
  lost.catch(() => undefined);
  const turns = () => database.db.selectFrom('turns').select(['id', 'status']).where('once_key', 'is not', null).execute();
  await until(async () => (await turns()).length === 1, 'the turn to begin', 60_000);
  // Its instance has been asked, and asks a model.
  const asked = async () =>
    database.db
      .selectFrom('usage')
      .select('id')
      .where(
        'turn_id',
        'in',
        (await turns()).map(({ id }) => id),
      )
      .execute();
  await until(async () => (await asked()).length > 0, 'the model to be asked', 60_000);
  await first.kill('SIGKILL');
  await expect(lost).rejects.toThrow();
  const [turn] = await turns();
  const told = await asking(second);
  expect([told.status, told.headers.get('berth-turn')]).toEqual([409, turn!.id]);
  await aMinuteLater();
  let answer = told;
  await until(async () => (answer = await asking(second)).status !== 409, 'the turn to end', 60_000);
  expect(await answer.json()).toMatchObject({ turn_id: turn!.id, message: words(40) });
  expect(await turns()).toEqual([{ id: turn!.id, status: 'finished' }]);
}, 480_000);
