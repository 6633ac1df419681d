import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { agent, say, startFixture, type Fixture } from './fixture.js';

let fixture: Fixture;
let berth: Fixture['berth'];
let version = 0;

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
});
afterAll(() => fixture.close());

const file = (id: string) => join(fixture.gateway.dataDir, 'workspaces', id, 'kept.txt');
const configure = (agents: object[], released: string[] = []) =>
  berth.request('PUT', '/berth/v1/config', { version: (version += 1), agents, released });
const release = async (more: object) => (await berth.request('POST', '/berth/v1/release', { agents: ['a', 'b'], ...more })).json;
const chat = (id: string, content: string) => berth.request('POST', '/v1/chat/completions', say(id, content));

test('what another instance has on the volume is neither removed nor served, and can be given back', async () => {
  await configure([agent('a'), agent('b')]);
  for (const id of ['a', 'b']) writeFileSync(file(id), id);
  expect((await configure([agent('a')], ['b'])).json.agents).toEqual(['a']);
  expect(existsSync(file('b'))).toBe(true);
  expect(await chat('b', 'hello')).toMatchObject({ status: 503, json: { error: { code: 'released' } } });
  expect((await chat('a', 'hello')).status).toBe(200);
  expect((await berth.request('GET', '/berth/v1/release')).json).toEqual({ released: ['b'] });
  await configure([agent('a'), agent('b')]);
  expect(existsSync(file('b'))).toBe(true);
  expect((await chat('b', 'hello')).status).toBe(200);
  expect((await configure([agent('a')], ['a'])).status).toBe(400);
});

test('an agent is let go of when no turn of it runs; closed, none begins; ended, those that run say so', async () => {
  await configure([agent('a'), agent('b')]);
  const slow = await berth.open('POST', '/v1/chat/completions', { stream: true, ...say('a', '/slow 2000 20') });
  await new Promise((resolve) => slow.once('data', resolve));
  expect(await release({})).toEqual({ released: ['b'] });
  expect(await release({ agents: ['a'], wait_ms: 50 })).toEqual({ released: [] });
  expect(await release({ agents: ['a'], close: true })).toEqual({ released: [] });
  expect((await chat('a', 'and me?')).status).toBe(503);
  let text = '';
  slow.on('data', (bytes: Buffer) => (text += bytes.toString()));
  const ended = new Promise((resolve) => slow.once('end', resolve));
  expect(await release({ agents: ['a'], end: true })).toEqual({ released: ['a'] });
  await ended;
  expect(text).toContain('"code":"moved"');
});

test('what another instance has in the making is left alone by one that starts beside it', async () => {
  const trash = join(fixture.gateway.dataDir, '.berth', 'trash', 'of-another');
  await configure([agent('a')]);
  mkdirSync(trash, { recursive: true });
  await fixture.gateway.stop();
  fixture.gateway.start();
  version = 0;
  await configure([], ['a']);
  expect(existsSync(trash)).toBe(true);
  expect(existsSync(file('a'))).toBe(true);
});
