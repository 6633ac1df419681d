import { afterEach, expect, test } from 'vitest';
import { Gateway, startHost, type TestHost } from './gateway.js';

let host: TestHost | undefined;
afterEach(() => host?.stop());

test('large bodies, several at once and one of them cancelled, leave the link alive', async () => {
  host = await startHost();
  const instance = await host.instance('a');
  let received = 0;
  const gateway = new Gateway(async (request, response) => {
    let bytes = 0;
    try {
      for await (const chunk of request) bytes += (chunk as Buffer).length;
    } catch {
      // The one that is cancelled breaks off.
      return;
    }
    received += bytes;
    response.end(String(bytes));
  });
  await gateway.dial(instance.socketPath, instance.token);
  const link = await host.host.waitFor(instance.instanceId, AbortSignal.timeout(5_000));
  const big = 'x'.repeat(9_000_000);
  const send = async (signal?: AbortSignal) => {
    const response = await link.request({
      method: 'POST',
      path: '/',
      body: big,
      timeoutMs: 20_000,
      ...(signal ? { signal } : {}),
    });
    let text = '';
    for await (const chunk of response.body) text += String(chunk);
    return Number(text);
  };
  const cancel = new AbortController();
  const cancelled = send(cancel.signal).catch((error: unknown) => error);
  cancel.abort(new Error('changed my mind'));
  expect(await cancelled).toMatchObject({ message: 'changed my mind' });
  expect(await Promise.all([send(), send(), send()])).toEqual([9_000_000, 9_000_000, 9_000_000]);
  expect(received).toBeGreaterThanOrEqual(27_000_000);
  expect(link.closed).toBe(false);
});
