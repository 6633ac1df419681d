import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;

const follow = (app: TestApp, user: User, query = '') =>
  EventReader.open(`${app.url}/api/v1/logs?follow=true${query}`, { method: 'GET', key: user.key });
const messages = (reader: EventReader) =>
  reader.events.filter(({ event }) => event === 'log').map(({ data }) => data.message as string);

describe('the logs, whatever the engine', () => {
  let app: TestApp;
  let user: User;
  beforeAll(async () => {
    app = await startApp({ runtime: 'fake' });
    user = await app.user();
    await app.agent(user, 'a');
    await app.agent(user, 'own', { isolation: 'dedicated' });
    await app.ready(user);
  });
  afterAll(() => app.stop());

  const instancesOf = (of: User) =>
    [...app.engine.instances.values()].filter(({ spec, observed }) => spec.userId === of.id && observed.state === 'running');
  const print = (text: string, stream: 'stdout' | 'stderr' = 'stdout', of = user, at = 0) =>
    app.gateways.programs.get(instancesOf(of)[at]!.spec.instanceId)!.log(stream, text);
  const get = (query: string, by = user) => app.get(`/api/v1/logs${query}`, by.key);
  const lines = async (query: string, by = user): Promise<string[]> =>
    (await get(query, by)).json.data.map(({ message }: { message: string }) => message);
  /** Waits until a message is kept. */
  const kept = (message: string, by = user) =>
    until(async () => (await lines('?tail=5000', by)).includes(message), `${message} to be kept`);
  /** A follower that has begun to follow, and has been told the first word. */
  const followNow = async (of: User) => {
    await kept('started', of);
    const reader = await follow(app, of, '&tail=1');
    await reader.first('log');
    return reader;
  };

  test('the last lines, of all containers, in the order of their times', async () => {
    for (let n = 0; n < 20; n++) print(`line ${n}`, n % 2 ? 'stderr' : 'stdout', user, n % 2);
    await kept('line 18');
    await kept('line 19');
    expect(await lines('?tail=4')).toHaveLength(4);
    const all = (await get('')).json.data;
    expect(all.map(({ time }: { time: string }) => time)).toEqual(all.map(({ time }: { time: string }) => time).toSorted());
    expect(new Set(all.map((line: { deployment_id: string }) => line.deployment_id)).size).toBe(2);
    expect(await lines('?tail=0')).toEqual([]);
    expect((await lines('?stream=stderr&tail=3')).toSorted()).toEqual(['line 15', 'line 17', 'line 19']);
    expect((await get('?stream=stderr')).json.data.every(({ stream }: { stream: string }) => stream === 'stderr')).toBe(true);
  });

  test('since a time, and none before it', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    print('before', 'stdout', other);
    const until = new Date().toISOString();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const since = new Date().toISOString();
    print('after', 'stdout', other);
    await kept('after', other);
    expect(await lines(`?since=${since}`, other)).toEqual(['after']);
    expect(await lines(`?until=${until}`, other)).toEqual(['started', 'before']);
    expect(await lines('?since=1h', other)).toContain('before');
    expect(await lines(`?since=${encodeURIComponent(new Date(Date.now() + 60_000).toISOString())}`, other)).toEqual([]);
  });

  test('of one agent: what the gateway says of it, however much else there is', async () => {
    const { deployment_id } = (await app.get('/api/v1/agents/a', user.key)).json;
    const at = instancesOf(user).findIndex(({ spec }) => spec.deploymentId === deployment_id);
    print(JSON.stringify({ level: 'info', msg: 'about a', agent: 'a', steps: 2 }), 'stdout', user, at);
    for (let n = 0; n < 300; n++) print(JSON.stringify({ level: 'info', msg: 'about b', agent: 'b' }), 'stdout', user, at);
    print('the last of these', 'stdout', user, at);
    await kept('the last of these');
    expect(await lines('?agent=a&tail=10')).toEqual(['about a {"steps":2}']);
    expect((await get('?agent=nobody')).status).toBe(404);
    expect((await (await follow(app, user, '&agent=nobody')).end()).names).toEqual(['error']);
  });

  test('as text', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    print(JSON.stringify({ level: 'warn', msg: 'hot', agent: 'a' }), 'stdout', other);
    await kept('hot', other);
    const answer = await get('?format=text&tail=1', other);
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain/);
    expect(answer.text).toMatch(/^\d{4}-\d\d-\d\dT\S+ WARN \[a\] hot\n$/);
  });

  test('without what looks like a key', async () => {
    print(`my key is sk-${'a'.repeat(30)} and ${user.key}`);
    await kept('my key is [redacted key] and [redacted key]');
    const answer = await get('?tail=5000');
    expect(answer.text).toContain('my key is [redacted key] and [redacted key]');
    expect(answer.text).not.toContain(user.key);
  });

  test.each([
    ['tail=-1', 'tail'],
    ['tail=abc', 'tail'],
    ['tail=5001', 'tail'],
    ['tail=', 'tail'],
    ['tail=1e3', 'tail'],
    ['since=yesterday', 'since'],
    ['until=x', 'until'],
    ['level=', 'level'],
    ['level=a,,b', 'level'],
    ['q=', 'q'],
    [`q=${'x'.repeat(201)}`, 'q'],
    ['cursor=%00', 'cursor'],
    ['stream=both', 'stream'],
    ['follow=maybe', 'follow'],
    ['format=xml', 'format'],
    ['follow=true&format=text', 'format'],
    [`agent=${'a'.repeat(65)}`, 'agent'],
  ])('?%s is refused, naming the field', async (query, field) => {
    const answer = await get(`?${query}`);
    expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([400, `query.${field}`]);
  });

  test("of another user are a 404, and an agent's key reads none", async () => {
    const other = await app.user();
    expect((await app.get(`/api/v1/users/${user.id}/logs`, other.key)).status).toBe(404);
    const agent = await app.agent(other, 'a');
    expect((await app.get('/api/v1/logs', agent.key)).status).toBe(403);
  });

  test('followed: the last lines, then each as it is printed, those of one millisecond too', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    print('old', 'stdout', other);
    await kept('old', other);
    const reader = await follow(app, other, '&tail=1');
    await reader.until(() => messages(reader).length === 1, 'the old line');
    for (let n = 0; n < 50; n++) print(`new ${n}`, 'stdout', other);
    await reader.until(() => messages(reader).length === 51, 'the new lines');
    expect(messages(reader)).toEqual(['old', ...Array.from({ length: 50 }, (_, n) => `new ${n}`)]);
    reader.hangUp();
  });

  test('followed from nothing: an agent that is made later is heard', async () => {
    const other = await app.user();
    const reader = await follow(app, other);
    await app.agent(other, 'late');
    await app.ready(other);
    await reader.until(() => messages(reader).includes('started'), 'the first word');
    reader.hangUp();
  });

  test('followed across the death of an instance, and one of an agent that is deleted ends', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    const reader = await followNow(other);
    const [first] = instancesOf(other);
    print('last words', 'stdout', other);
    app.engine.die(first!.spec.name, { oomKilled: true });
    await until(() => instancesOf(other).some(({ spec }) => spec.instanceId !== first!.spec.instanceId), 'the next instance');
    await reader.until(() => messages(reader).filter((text) => text === 'started').length === 2, 'the next first word');
    print('alive', 'stdout', other);
    await reader.until(() => messages(reader).includes('alive'), 'a line of the next one');
    expect(messages(reader)).toEqual(['started', 'last words', 'started', 'alive']);
    const ofAgent = await follow(app, other, '&agent=a');
    await app.call('DELETE', '/api/v1/agents/a', { key: other.key });
    await ofAgent.end();
    expect(ofAgent.events.filter(({ event }) => event === 'error')).toEqual([]);
    reader.hangUp();
  });

  test('followed while the engine is gone: said once, and goes on without a line lost or doubled', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    const reader = await followNow(other);
    print('one', 'stdout', other);
    await reader.until(() => messages(reader).includes('one'), 'the first line');
    app.engine.goDown();
    await reader.first('waiting');
    print('two', 'stdout', other);
    app.engine.comeBack();
    await reader.until(() => messages(reader).includes('two'), 'the second line');
    print('three', 'stdout', other);
    await reader.until(() => messages(reader).includes('three'), 'the third line');
    expect(messages(reader)).toEqual(['started', 'one', 'two', 'three']);
    expect(reader.events.filter(({ event }) => event === 'waiting')).toHaveLength(1);
    reader.hangUp();
  });

  test('a container that prints without end fills neither memory nor disk, though a follower stops reading: what is left out is counted', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    const program = app.gateways.programs.get(instancesOf(other)[0]!.spec.instanceId)!;
    const reader = await followNow(other);
    reader.pause();
    const before = process.memoryUsage.rss();
    const text = 'x'.repeat(16_000);
    let printed = 0;
    // 480 MB; the engine itself keeps the last 10,000 lines of it, which here are one and the same string.
    for (let round = 0; round < 300; round++) {
      for (let n = 0; n < 100; n++, printed++) program.log('stdout', text);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((process.memoryUsage.rss() - before) / 1024 / 1024).toBeLessThan(100);
    reader.resume();
    await until(
      () => {
        program.log('stdout', 'after all');
        return messages(reader).includes('after all');
      },
      'the flow to go on',
      60_000,
    );
    const gaps = reader.events.filter(({ event }) => event === 'gap').map(({ data }) => data);
    expect(gaps[0]).toMatchObject({ reason: 'printed faster than logs are kept', lines: expect.any(Number) });
    expect(messages(reader).length).toBeLessThan(printed / 10);
    const { stdout } = await promisify(execFile)('du', ['-sm', join(app.config.logDir, other.id)]);
    expect(Number.parseInt(stdout, 10)).toBeLessThan(40);
    reader.hangUp();
  }, 120_000);
});

describe('what a real gateway logs', () => {
  let app: TestApp;
  let user: User;
  beforeAll(async () => {
    app = await startApp({ runtime: 'process' });
    user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
  });
  afterAll(() => app.stop());

  test('names turns and agents, and never what was said', async () => {
    const word = 'Rumpelstilzchen';
    for (const content of [
      word,
      `/tool write_file {"path":"${word}.txt","content":"${word}"}`,
      `/tool shell {"command":"echo ${word}; cat ${word}"}`,
      `/error bad_request ${word}`,
      `/tool ${word} {}`,
      `/tool read_file {${word}`,
    ]) {
      await app.post('/api/v1/agents/a/chat', user.key, {
        messages: [
          { role: 'system', content: word },
          { role: 'user', content },
        ],
      });
    }
    let ended = 0;
    await until(
      async () => {
        const { data } = (await app.get('/api/v1/agents/a/logs', user.key)).json;
        ended = data.filter(({ message }: { message: string }) => message.startsWith('turn ended')).length;
        return ended === 6;
      },
      () => `six turns to be told of, and not ${ended}`,
    );
    const all = await app.get('/api/v1/logs?tail=5000', user.key);
    expect(all.text).not.toContain(word);
    expect(all.text).not.toContain(user.key);
  });
});

describe('in containers', () => {
  let app: TestApp;
  let user: User;
  beforeAll(async () => {
    app = await startApp({ runtime: 'docker' });
    user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
  });
  afterAll(() => app.stop());

  test('a follower goes on across a container that is removed from outside', async () => {
    const chat = () => app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hello' }] });
    const reader = await follow(app, user, '&tail=100');
    await reader.until(() => messages(reader).some((message) => message.startsWith('started')), 'the first word');
    expect((await chat()).status).toBe(200);
    await reader.until(() => messages(reader).some((message) => message.startsWith('turn ended')), 'the turn');
    const { stdout } = await promisify(execFile)('docker', ['ps', '-q', '--filter', `name=${app.installation.id.slice(-8)}`]);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    await promisify(execFile)('docker', ['rm', '-f', stdout.trim()]);
    const count = (start: string) => messages(reader).filter((message) => message.startsWith(start)).length;
    await reader.until(() => count('started') === 2, 'the first word of the next container');
    await app.ready(user);
    expect((await chat()).status).toBe(200);
    await reader.until(() => count('turn ended') === 2, 'the next turn');
    expect(reader.events.filter(({ event }) => event === 'error')).toEqual([]);
    reader.hangUp();
  });
});
