import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { ClientGone, type EventSink } from '../../src/http/sse.js';
import { AppError } from '../../src/lib/errors.js';
import { startToy, type Toy, type ToyHooks, until } from './toy.js';

const PATH = '/api/v1/agents/helper/stream';

let toy: Toy;
afterEach(() => toy.close());

async function start(onStream: ToyHooks['onStream']): Promise<Toy> {
  toy = await startToy({ onStream });
  return toy;
}

/** A client that asks for the stream and reads only when told to. */
function slowReader(port: number): Socket {
  const socket = connect({ port, host: '127.0.0.1' });
  socket.pause();
  socket.write(`GET ${PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\n\r\n`);
  return socket;
}

describe('a stream of events', () => {
  test('carries typed events with ids, and headers that keep proxies from holding it back', async () => {
    await start(async (sink) => {
      await sink.send({ event: 'delta', data: { text: 'a\nb' }, id: '1' });
      await sink.send({ event: 'done', data: null });
    });
    const response = await toy.get(PATH, { key: 'ada-key' });
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      'x-content-type-options': 'nosniff',
      'ratelimit-limit': '1000',
    });
    expect(response.headers.get('x-request-id')).toMatch(/^req_/);
    expect(await response.text()).toBe(': stream\n\nid: 1\nevent: delta\ndata: {"text":"a\\nb"}\n\nevent: done\ndata: null\n\n');
    expect(toy.logged.at(-1)).toMatchObject({ status: 200, route: '/api/v1/users/:user/agents/:agent/stream' });
  });

  test('the connection is used again afterwards', async () => {
    await start(undefined);
    const socket = connect(toy.port, '127.0.0.1');
    let received = '';
    socket.on('data', (chunk) => (received += chunk.toString()));
    const request = `GET ${PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\n\r\n`;
    socket.write(request);
    await until(() => received.includes('\r\n0\r\n\r\n'), 'the end of the first');
    socket.write(request);
    await until(() => received.split('\r\n0\r\n\r\n').length === 3, 'the end of the second');
    socket.destroy();
  });

  test('streams asked for at once on one connection come one after the other, whole', async () => {
    let n = 0;
    await start(async (sink) => {
      const mine = ++n;
      for (let i = 0; i < 50; i++) await sink.send({ event: 'e', data: `${mine}.${i}.${'x'.repeat(2_000)}` });
    });
    const socket = connect(toy.port, '127.0.0.1');
    let received = '';
    socket.on('data', (chunk) => (received += chunk.toString()));
    socket.write(`GET ${PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\n\r\n`.repeat(3));
    await until(() => received.split('\r\n0\r\n\r\n').length === 4, 'three ends');
    const order = [...received.matchAll(/data: "(\d)\.(\d+)\./g)].map((match) => Number(match[1]) * 100 + Number(match[2]));
    expect(order).toHaveLength(150);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    socket.destroy();
  });

  test('a client of HTTP/1.0 gets it without chunks', async () => {
    await start(async (sink) => void (await sink.send({ event: 'done', data: 1 })));
    const socket = connect(toy.port, '127.0.0.1');
    let received = '';
    let closed = false;
    socket.on('data', (chunk) => (received += chunk.toString())).on('close', () => (closed = true));
    socket.write(`GET ${PATH} HTTP/1.0\r\nHost: x\r\nX-API-Key: ada-key\r\n\r\n`);
    await until(() => closed, 'the end');
    expect(received.split('\r\n\r\n')[1]).toBe(': stream\n\nevent: done\ndata: 1\n\n');
  });

  test('the first byte comes at once, and comments while nothing happens', async () => {
    let finish = (): void => {};
    await start(() => new Promise((resolve) => (finish = resolve)));
    const response = await toy.get(PATH, { key: 'ada-key' });
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader.read()).value).toBe(': stream\n\n');
    expect((await reader.read()).value).toBe(': keep-alive\n\n');
    expect((await reader.read()).value).toBe(': keep-alive\n\n');
    finish();
    expect((await reader.read()).done).toBe(true);
  });

  test('what goes wrong within becomes its last event, without the cause', async () => {
    await start(async (sink) => {
      await sink.send({ event: 'delta', data: 1 });
      throw new Error('the secret cause');
    });
    const text = await (await toy.get(PATH, { key: 'ada-key' })).text();
    expect(text).toMatch(
      /event: delta\ndata: 1\n\nevent: error\ndata: \{"error":"internal server error","detail":"internal server error","code":"internal","request_id":"req_\w+"\}\n\n$/,
    );
    await until(() => toy.logged.length > 0, 'the log');
    expect(toy.logged.at(-1)).toMatchObject({ level: 50, err: { message: 'the secret cause' } });
  });

  test('an error that is meant for the client keeps its words', async () => {
    await start(() => Promise.reject(new AppError('unavailable', 'the agent did not get ready')));
    expect(await (await toy.get(PATH, { key: 'ada-key' })).text()).toContain('"error":"the agent did not get ready"');
  });

  test('a client that goes is noticed at once, and is not an error', async () => {
    let gone: unknown;
    let after: unknown;
    await start(async (sink) => {
      await new Promise<void>((resolve) => sink.signal.addEventListener('abort', () => resolve()));
      gone = sink.signal.reason;
      try {
        await sink.send({ event: 'late', data: 1 });
      } catch (error) {
        after = error;
        throw error;
      }
    });
    const abort = new AbortController();
    const response = await toy.get(PATH, { key: 'ada-key', signal: abort.signal });
    await response.body!.getReader().read();
    abort.abort();
    await until(() => after !== undefined, 'the abort');
    expect([gone, after]).toEqual([expect.any(ClientGone), gone]);
    await until(() => toy.logged.some((line) => line['status'] === 499), 'the log');
    expect(toy.logged.filter((line) => (line['level'] as number) > 30)).toEqual([]);
  });

  test('a producer waits for a slow reader, and then goes on', async () => {
    let sent = 0;
    const event = { event: 'delta', data: 'x'.repeat(10_000) };
    await start(async (sink) => {
      for (; sent < 2_000; sent++) await sink.send(event);
    });
    const socket = slowReader(toy.port);
    let before = -1;
    await until(() => sent > 0, 'the start');
    while (sent !== before) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(sent).toBeLessThan(1_000); // of 20 MB; what the two sockets' buffers in the kernel take
    socket.resume();
    await until(() => sent === 2_000, 'the rest');
    socket.destroy();
  });

  test('a reader that takes nothing for long is cut off', async () => {
    let ended: unknown;
    await start(async (sink: EventSink) => {
      try {
        for (;;) await sink.send({ event: 'delta', data: 'x'.repeat(100_000) });
      } catch (error) {
        ended = error;
        throw error;
      }
    });
    const socket = slowReader(toy.port);
    socket.on('error', () => {});
    await until(() => ended !== undefined, 'the cut', 10_000);
    expect(ended).toBeInstanceOf(ClientGone);
    socket.destroy();
  });

  test('HEAD gets the headers and starts nothing', async () => {
    let started = false;
    await start(async () => void (started = true));
    const response = await toy.get(PATH, { method: 'HEAD', key: 'ada-key' });
    expect([response.status, response.headers.get('content-type'), started]).toEqual([
      200,
      'text/event-stream; charset=utf-8',
      false,
    ]);
  });
});
