import type { Http2ServerResponse } from 'node:http2';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { insertTurn, settleAbandonedAcrossTenants } from '../../src/domains/chat/chat.store.js';
import { newId } from '../../src/lib/ids.js';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { textChunk } from '../support/fake-gateway.js';
import { until } from '../support/until.js';

const MIB = 1024 * 1024;

let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;

beforeAll(async () => {
  app = await startApp({ runtime: 'fake', app: { gateway: { silenceMs: 400, headersMs: 500 }, stream: { stalledMs: 60_000 } } });
  user = await app.user(undefined, 'business');
  await app.agent(user, 'a');
  await app.ready(user);
});
afterAll(() => app.stop());
beforeEach(() => {
  app.gateways.script = undefined;
});

const body = { messages: [{ role: 'user', content: 'hello' }] };
const chat = () => app.post('/api/v1/agents/a/chat', user.key, body);
const stream = () => EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: user.key, body });
const completion = (more: object = {}) => app.post('/v1/chat/completions', user.key, { model: 'berth/a', ...body, ...more });
const running = () => app.database.db.selectFrom('turns').selectAll().where('status', '=', 'running').execute();

/** Writes pieces as fast as they are taken, for ever or up to so many bytes, until the stream is reset. Says how many bytes were taken. */
function pour(
  response: Http2ServerResponse,
  piece: string,
  { head = '', tail = '', bytes = Infinity } = {},
): { bytes: number; reset: boolean } {
  const poured = { bytes: 0, reset: false };
  response.on('close', () => (poured.reset = true));
  response.stream.on('error', () => undefined);
  if (head !== '') response.write(head);
  const more = () => {
    while (!poured.reset && !response.stream.destroyed) {
      if (poured.bytes >= bytes) return void response.end(tail);
      poured.bytes += piece.length;
      if (!response.write(piece)) return void response.once('drain', more);
    }
  };
  more();
  return poured;
}

async function peakMib(work: () => Promise<unknown>): Promise<number> {
  const before = process.memoryUsage.rss();
  let peak = before;
  const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return (peak - before) / MIB;
}

const HOSTILE: [string, (response: Http2ServerResponse) => unknown, RegExp][] = [
  ['garbage', (response) => response.end('data: {{{{\n\n'), /not understood/],
  [
    'HTML with status 200',
    (response) => response.end('<html><body>It works!</body></html>'),
    /not understood|stopped in the midst/,
  ],
  [
    'wrong types',
    (response) => response.end('data: {"choices":[{"delta":{"content":{"a":[1]}}}]}\n\ndata: [DONE]\n\n'),
    /not understood/,
  ],
  [
    'a cut in the midst',
    (response) => response.write(textChunk('half'), () => response.stream.close(2)),
    /link to the instance was lost|stopped in the midst/,
  ],
  ['an end without [DONE]', (response) => response.end(textChunk('half', 'stop')), /stopped in the midst/],
  ['nothing after the first word', (response) => response.write(textChunk('half')), /said nothing/],
  [
    'headers that are too large',
    (response) => (response.setHeader('x-large', 'x'.repeat(20_000)), response.end()),
    /too large|was lost/,
  ],
  ['a line without an end', (response) => pour(response, 'x'.repeat(16_384), { head: 'data: ' }), /not understood/],
  [
    'an event of 10 MB',
    (response) =>
      pour(response, 'x'.repeat(65_536), { head: 'data: {"choices":[{"delta":{"content":"', tail: '"}}]}\n\n', bytes: 10 * MIB }),
    /not understood/,
  ],
  [
    'empty chunks without end',
    (response) => pour(response, 'data: {"choices":[{"delta":{}}]}\n\n'.repeat(100)),
    /without saying anything/,
  ],
  [
    'a status of its own',
    (response) => ((response.statusCode = 418), response.end('{"error":{"message":"teapot <script>","type":"x"}}')),
    /answered 418: teapot/,
  ],
  [
    'an error that claims to be anything',
    (response) => response.end(`data: ${JSON.stringify({ error: { message: 'x'.repeat(100_000), code: 'constructor' } })}\n\n`),
    /^x{500}$/,
  ],
];

describe('a gateway that answers with', () => {
  test.each(HOSTILE)(
    '%s: every kind of call gets a clear error, the turn is settled, and the next chat works',
    async (_, answer, said) => {
      app.gateways.script = (_request, response) => void answer(response);
      const peak = await peakMib(async () => {
        const one = await chat();
        expect(one.status, one.text.slice(0, 300)).toBeGreaterThanOrEqual(500);
        expect(one.json).toMatchObject({ error: expect.stringMatching(said), request_id: expect.any(String) });
        const reader = await (await stream()).end();
        expect(reader.names.at(-1)).toBe('error');
        expect((await reader.first('error')).data.error).toMatch(said);
        const openAi = await completion();
        expect(openAi.json.error.message).toMatch(said);
        const openAiStream = await completion({ stream: true });
        expect(openAiStream.text).toMatch(
          openAiStream.status === 200 ? /"error":\{"message":.*\n\ndata: \[DONE\]\n\n$/ : /^\{"error"/,
        );
      });
      expect(peak, 'memory').toBeLessThan(80);
      await until(async () => (await running()).length === 0, 'the turns to be settled');
      app.gateways.script = undefined;
      expect((await chat()).json.message).toBe('You said: hello');
    },
    30_000,
  );

  test('text without end: a reader that hangs up ends it', async () => {
    let poured: ReturnType<typeof pour> | undefined;
    app.gateways.script = (_request, response) => void (poured = pour(response, textChunk('word ')));
    const reader = await stream();
    await reader.first('text');
    reader.hangUp();
    await until(() => poured?.reset, 'the stream to be reset');
    await until(async () => (await running()).length === 0, 'the turn to be settled');
  });
});

describe('a client that stops reading', () => {
  test.each<[string, () => Promise<EventReader>]>([
    ['/chat/stream', stream],
    [
      '/v1/chat/completions',
      () =>
        EventReader.open(`${app.url}/v1/chat/completions`, { key: user.key, body: { model: 'berth/a', stream: true, ...body } }),
    ],
  ])('%s: the gateway is not read either, and Berth holds little', async (_, open) => {
    const piece = textChunk('word '.repeat(400));
    let poured: ReturnType<typeof pour> | undefined;
    app.gateways.script = (_request, response) => void (poured = pour(response, piece));
    const peak = await peakMib(async () => {
      const reader = await open();
      reader.pause();
      let last = -1;
      // Until nothing moves any more: what fits into kernels and windows has gone.
      await until(async () => {
        await new Promise((resolve) => setTimeout(resolve, 200));
        const still = poured !== undefined && poured.bytes === last;
        last = poured?.bytes ?? -1;
        return still;
      }, 'the flow to stop');
      expect(poured!.bytes).toBeLessThan(24 * MIB);
      const before = poured!.bytes;
      reader.resume();
      await until(() => poured!.bytes > before + MIB, 'the flow to go on');
      reader.hangUp();
      await until(() => poured!.reset, 'the gateway to be told');
    });
    expect(peak, 'memory').toBeLessThan(100);
    await until(async () => (await running()).length === 0, 'the turn to be settled');
  });
});

test('turns of a process that died are settled by another, those of one that lives are not', async () => {
  const { db } = app.database;
  const { id: agentId } = (await app.get('/api/v1/agents/a', user.key)).json;
  await db
    .insertInto('processes')
    .values([
      { id: 'pold', heartbeat_at: sql<Date>`now() - interval '2 minutes'` },
      { id: 'pfresh', heartbeat_at: sql<Date>`now()` },
    ])
    .execute();
  for (const processId of ['pold', 'pfresh', 'pgone']) {
    await insertTurn(db, user.id, { id: newId('trn'), agentId, conversationId: null, instanceId: null, processId, messages: [] });
  }
  await settleAbandonedAcrossTenants(db);
  const rows = await db.selectFrom('turns').selectAll().where('process_id', 'in', ['pold', 'pfresh', 'pgone']).execute();
  const died = { status: 'failed', error: 'the process that relayed the turn died', ended_at: expect.any(Date) };
  expect(Object.fromEntries(rows.map((row) => [row.process_id, row]))).toMatchObject({
    pold: died,
    pgone: died,
    pfresh: { status: 'running', ended_at: null },
  });
});
