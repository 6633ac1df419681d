import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BerthStandIn, LinkFolder } from './berth.js';
import { GatewayProcess, bundleGateway } from './gateway.js';

let bundle: string;
let folder: LinkFolder;
let berth: BerthStandIn;
let gateway: GatewayProcess;

beforeAll(async () => {
  bundle = await bundleGateway();
  folder = new LinkFolder();
  berth = await new BerthStandIn(folder).listen();
  gateway = new GatewayProcess(bundle, folder.dir).start();
});

afterAll(async () => {
  await gateway.remove();
  await berth.close();
  folder.remove();
  rmSync(dirname(bundle), { recursive: true, force: true });
});

const ALPHA = { id: 'alpha', incarnation: 'i1', model: 'demo/echo', instructions: 'Be brief.' };
const user = (content: string) => [{ role: 'user', content }];

describe('before a config', () => {
  test('is live, not ready, and refuses chats', async () => {
    expect(await berth.request('GET', '/healthz')).toMatchObject({ status: 200, json: { ok: true, status: 'live' } });
    expect(await berth.request('GET', '/readyz')).toMatchObject({ status: 503, json: { ready: false, failing: ['config'] } });
    expect((await berth.chat({ model: 'openclaw/alpha', messages: user('hi') })).status).toBe(503);
  });
});

describe('with a config', () => {
  beforeAll(async () => {
    const applied = await berth.configure([ALPHA, { id: 'beta', incarnation: 'i1', model: 'demo/other' }], 3);
    expect(applied).toMatchObject({ status: 200, json: { version: 3, agents: ['alpha', 'beta'] } });
  });

  test('is ready and lists its agents', async () => {
    expect(await berth.request('GET', '/readyz')).toMatchObject({ status: 200, json: { ready: true } });
    const { json } = await berth.request('GET', '/v1/models');
    expect(json.data.map(({ id }: { id: string }) => id)).toEqual(['openclaw/alpha', 'openclaw/beta']);
  });

  test('streams an answer as OpenAI chunks', async () => {
    const answer = await berth.chat(
      { model: 'openclaw/alpha', messages: user('hello there'), stream_options: { include_usage: true } },
      { 'x-berth-turn': 'trn_1' },
    );
    expect(answer).toMatchObject({ status: 200, said: 'You said: hello there', finish: 'stop', done: true });
    expect(answer.headers['content-type']).toContain('text/event-stream');
    expect(answer.usage).toEqual({ prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 });
    expect(answer.events[0]?.data).toMatchObject({
      id: 'chatcmpl_trn_1',
      object: 'chat.completion.chunk',
      model: 'openclaw/alpha',
      choices: [{ index: 0, delta: { role: 'assistant' }, finish_reason: null }],
    });
    expect(answer.events.filter(({ data }) => data.choices[0]?.delta.content)).toHaveLength(4);
  });
});
