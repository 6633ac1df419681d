import { afterEach, describe, expect, test } from 'vitest';
import type { Begun, IdempotencyEntry, IdempotencyStore, KeptAnswer } from '../../src/http/idempotency.js';
import { AppError } from '../../src/lib/errors.js';
import { startToy, type Toy, type ToyHooks, until } from './toy.js';

/** The contract of the store, in memory. The one on the database has its own tests. */
class Memory implements IdempotencyStore {
  readonly rows = new Map<string, { bodyDigest: string; answer?: KeptAnswer | undefined; done: boolean }>();

  begin(entry: IdempotencyEntry): Promise<Begun> {
    const row = this.rows.get(keyOf(entry));
    if (!row) this.rows.set(keyOf(entry), { bodyDigest: entry.bodyDigest, done: false });
    return Promise.resolve(
      !row
        ? 'new'
        : row.bodyDigest !== entry.bodyDigest
          ? { status: 'mismatch' }
          : row.done
            ? { status: 'done', answer: row.answer }
            : { status: 'running' },
    );
  }

  renew(): Promise<void> {
    return Promise.resolve();
  }

  finish(entry: IdempotencyEntry, answer: KeptAnswer | undefined): Promise<void> {
    Object.assign(this.rows.get(keyOf(entry))!, { done: true, answer });
    return Promise.resolve();
  }

  abandon(entry: IdempotencyEntry): Promise<void> {
    this.rows.delete(keyOf(entry));
    return Promise.resolve();
  }
}

const keyOf = (entry: IdempotencyEntry) => `${entry.caller} ${entry.route} ${entry.keyDigest}`;

describe('a POST with an Idempotency-Key', () => {
  let toy: Toy;
  let memory: Memory;
  afterEach(() => toy.close());

  async function start(hooks: ToyHooks): Promise<void> {
    memory = new Memory();
    toy = await startToy(hooks, { idempotency: memory });
  }
  const post = (path: string, body: unknown, once: string, key = 'ada-key') =>
    toy.post(path, body, { key, headers: { 'Idempotency-Key': once } });
  const create = (name: string, once: string, key?: string) => post('/api/v1/agents', { name }, once, key);
  const seen = async (response: Response) =>
    [response.status, response.headers.get('idempotency-replayed'), await response.text()] as const;

  test('is carried out once and answered the same again', async () => {
    let runs = 0;
    await start({ onCreate: () => void runs++ });
    const first = await create('a', 'k1');
    const second = await create('a', 'k1');
    expect([first.headers.get('location'), second.headers.get('location')]).toEqual(['/somewhere', '/somewhere']);
    expect(second.headers.get('x-request-id')).not.toBe(first.headers.get('x-request-id'));
    const [, , body] = await seen(first);
    expect(await seen(second)).toEqual([201, 'true', body]);
    expect(runs).toBe(1);
    await create('a', 'k2');
    await create('a', 'k1', 'bob-key');
    expect(runs).toBe(3);
  });

  test('the flat and the versioned form of one path are one request', async () => {
    let runs = 0;
    await start({ onCreate: () => void runs++ });
    await create('a', 'k');
    expect((await seen(await post('/api/agents', { name: 'a' }, 'k')))[1]).toBe('true');
    expect(runs).toBe(1);
  });

  test('of an admin key is another one for each user it acts for', async () => {
    await start({});
    const as = async (user: string, path: string) =>
      toy.post(path, { name: 'a' }, { key: 'admin-key', headers: { 'X-Workspace-ID': user, 'Idempotency-Key': 'k' } });
    const answers = [await as('ada', '/api/agents'), await as('bob', '/api/agents'), await as('bob', '/api/agents')];
    expect(await Promise.all(answers.map(async (one) => ((await one.json()) as { user: string }).user))).toEqual([
      'usr_ada',
      'usr_bob',
      'usr_bob',
    ]);
    expect(answers.map((one) => one.headers.get('idempotency-replayed'))).toEqual([null, null, 'true']);
  });

  test('with another body is 422', async () => {
    await start({});
    await create('a', 'k');
    const response = await create('b', 'k');
    expect([response.status, await response.json()]).toMatchObject([422, { code: 'unprocessable' }]);
  });

  test('while the first still runs is 409 with Retry-After', async () => {
    let finish = (): void => {};
    const gate = new Promise<void>((resolve) => (finish = resolve));
    await start({ onCreate: () => gate });
    const first = create('a', 'k');
    await until(() => memory.rows.size === 1, 'the first run');
    const response = await create('a', 'k');
    expect([response.status, response.headers.get('retry-after')]).toEqual([409, '1']);
    finish();
    expect((await first).status).toBe(201);
  });

  test.each([
    ['is refused by validation', '{"name": 1}', undefined, 400, 0],
    ['fails within', '{"name": "a"}', new Error('boom'), 500, 0],
    ['is answered 409 by its handler', '{"name": "a"}', new AppError('conflict', 'taken'), 409, 1],
    ['is told to wait', '{"name": "a"}', new AppError('rate_limited', 'wait'), 429, 0],
  ] as const)('that %s is kept only where it was carried out', async (_, body, thrown, status, kept) => {
    await start({
      onCreate: () => {
        if (thrown) throw thrown;
      },
    });
    expect((await post('/api/v1/agents', body, 'k')).status).toBe(status);
    expect(memory.rows.size).toBe(kept);
  });

  test.each(['', 'x'.repeat(256), 'caf\u00e9'])('%j is no key', async (once) => {
    await start({});
    const response = await create('a', once);
    expect([response.status, await response.json()]).toMatchObject([400, { fields: [{ path: 'header.Idempotency-Key' }] }]);
  });

  test('a stream is kept when it ended, and replayed as a whole', async () => {
    let runs = 0;
    await start({
      onStream: async (sink) => {
        runs++;
        await sink.send({ event: 'done', data: { n: runs } });
      },
    });
    const path = '/api/v1/agents/helper/stream';
    const first = await (await post(path, '', 'k')).text();
    const again = await post(path, '', 'k');
    expect(again.headers.get('content-type')).toContain('text/event-stream');
    expect(await seen(again)).toEqual([200, 'true', first]);
    expect(runs).toBe(1);
  });

  test('a stream that broke or whose client went is not kept', async () => {
    await start({ onStream: () => Promise.reject(new Error('boom')) });
    await (await post('/api/v1/agents/helper/stream', '', 'k')).text();
    await until(() => memory.rows.size === 0, 'the row to go');
  });

  test('a stream too long to keep says so', async () => {
    await start({
      onStream: async (sink) => {
        for (let i = 0; i < 11; i++) await sink.send({ event: 'delta', data: 'x'.repeat(100_000) });
      },
    });
    const path = '/api/v1/agents/helper/stream';
    await (await post(path, '', 'k')).text();
    const [status, , text] = await seen(await post(path, '', 'k'));
    expect([status, text]).toEqual([409, expect.stringContaining('too large to keep')]);
  });

  test('a store that fails does not take the answer from the client', async () => {
    await start({});
    memory.finish = () => Promise.reject(new Error('the database is away'));
    expect((await create('a', 'k')).status).toBe(201);
    expect(toy.logged.some((line) => line['level'] === 50 && String(line['msg']).includes('could not settle'))).toBe(true);
  });
});
