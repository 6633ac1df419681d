import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { demoModel } from './demo-model.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

const MB = 1024 * 1024;

let fixture: Fixture;
let berth: Fixture['berth'];

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
  berth.keepModelRequests = false;
  await berth.configure([agent('a', { files: { 'SOUL.md': 'Calm. '.repeat(500) } }), agent('b')]);
});
beforeEach(() => {
  berth.model = demoModel;
});
afterAll(() => fixture.close());

test('stays small after a hundred turns with tools', async () => {
  for (let i = 0; i < 50; i++) {
    await berth.chat(say('a', `/words 40`, { user: `u${i % 5}` }));
    await berth.chat(say('a', `/tool write_file {"path":"f${i}.txt","content":"${i}"}`, { user: `u${i % 5}` }));
  }
  expect(fixture.gateway.residentBytes()).toBeLessThan(fixture.gateway.memoryBoundBytes);
});

test('sends no more and keeps no more memory in the thousandth turn of a conversation than in the hundredth', async () => {
  const bytes: number[] = [];
  berth.model = (call, response) => {
    bytes.push(call.bytes);
    return demoModel(call, response);
  };
  const words = 'some words of a message '.repeat(20);
  let residentEarly = 0;
  for (let i = 1; i <= 1000; i++) {
    const { said } = await berth.chat(say('b', `${i} ${words}`, { user: 'long' }));
    expect(said).toContain(`You said: ${i} `);
    if (i === 300) residentEarly = fixture.gateway.residentBytes();
  }
  expect(Math.max(...bytes.slice(900))).toBeLessThanOrEqual(Math.max(...bytes.slice(200, 500)) + 2000);
  expect(Math.max(...bytes)).toBeLessThan(160 * 1024);
  expect(fixture.gateway.residentBytes() - residentEarly).toBeLessThan(10 * MB);
  // The whole of it is on disk, a line a turn.
  const dir = join(fixture.gateway.dataDir, '.berth/agents/b/conversations');
  const files = readdirSync(dir).map((name) => join(dir, name));
  expect(files).toHaveLength(1);
  expect(
    readFileSync(files[0] as string, 'utf8')
      .trim()
      .split('\n'),
  ).toHaveLength(1000);
});

test('keeps many conversations on disk and few in memory', async () => {
  const before = fixture.gateway.residentBytes();
  const words = 'x'.repeat(20_000);
  for (let i = 0; i < 300; i++) await berth.chat(say('b', words, { user: `many${i}` }));
  expect(fixture.gateway.residentBytes() - before).toBeLessThan(12 * MB);
  expect((await berth.chat(say('b', '/history', { user: 'many0' }))).said).toBe(words);
});

describe('large requests', () => {
  const large = (megabytes: number) =>
    say('b', [
      { type: 'text', text: 'hi' },
      { type: 'image_url', image_url: { url: 'A'.repeat(megabytes * MB) } },
    ]);

  test('of the largest size are served', async () => {
    let bytes = 0;
    berth.model = (call, response) => {
      bytes = call.bytes;
      return demoModel({ ...call, body: { ...call.body, messages: [{ role: 'user', content: 'ok' }] } }, response);
    };
    expect((await berth.chat(large(19.9))).said).toBe('You said: ok');
    expect(bytes).toBeGreaterThan(19 * MB);
  });

  test('that come all at once are refused where there is no room, and the process lives', async () => {
    berth.model = (call, response) =>
      demoModel({ ...call, body: { ...call.body, messages: [{ role: 'user', content: 'ok' }] } }, response);
    const answers = await Promise.all(Array.from({ length: 6 }, () => berth.chat(large(15))));
    const statuses = answers.map(({ status }) => status);
    expect(statuses).toContain(503);
    expect(statuses.every((status) => status === 200 || status === 503)).toBe(true);
    expect(fixture.gateway.child.exitCode).toBeNull();
    berth.model = demoModel;
    expect((await berth.chat(say('b', 'alive?'))).said).toBe('You said: alive?');
  });
});

test('fifty streams at once all get their own answer', async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => berth.chat(say('a', `number ${i}`, { user: `c${i}` }))));
  expect(answers.map(({ said }) => said)).toEqual(answers.map((_, i) => `You said: number ${i}`));
});

test('many cancelled turns leave nothing behind', async () => {
  let open = 0;
  berth.model = async (call, response) => {
    open += 1;
    response.on('close', () => (open -= 1));
    await demoModel(call, response);
  };
  for (let round = 0; round < 10; round++) {
    const streams = await Promise.all(
      Array.from({ length: 20 }, () =>
        berth.open('POST', '/v1/chat/completions', say('a', '/slow 1000 20', { stream: true, user: `r${round}` })),
      ),
    );
    await until('one is asked', () => open > 0);
    for (const stream of streams) stream.on('error', () => undefined).close(8);
    await until('all have ended', () => open === 0);
  }
  expect((await berth.chat(say('a', 'and now?', { user: 'r0' }))).said).toBe('You said: and now?');
  const dir = join(fixture.gateway.dataDir, '.berth/agents/a/conversations');
  for (const name of readdirSync(dir)) expect(statSync(join(dir, name)).size).toBeLessThan(64 * 1024);
});
