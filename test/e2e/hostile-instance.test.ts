import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir } from 'node:fs/promises';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Gateway } from '../link/gateway.js';
import { rawConnect } from '../link/hostile.js';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';
import { say, type Tenant, tenant } from './inside.js';

const run = promisify(execFile);
const ATTACKER = fileURLToPath(new URL('attacker.mjs', import.meta.url));
const FLOODER = fileURLToPath(new URL('../link/flooder.mjs', import.meta.url));

/** A tenant whose instance does what the test says instead of what Berth expects. */
interface Hostile extends Tenant {
  instanceId: string;
  socket: string;
  token: string;
}

let app: TestApp;
let bob: Tenant;
beforeAll(async () => {
  // Those that lose their link here count as starting for a minute: how many may start at once is what others are about.
  app = await startApp({ env: { STARTS_AT_ONCE: '1000' }, app: { rates: { perAddress: 100_000 } } });
  bob = await tenant(app, { tier: 'business' });
});
afterAll(() => app.stop());

async function hostile(wish: { network?: object } = {}): Promise<Hostile> {
  const who = await tenant(app, wish);
  const instanceId: string = (await status(who)).instance.id;
  for (const { spec } of app.engine.instances.values()) if (spec.instanceId === instanceId) app.gateways.end(spec);
  await until(async () => (await status(who)).stage === 'connecting', 'the honest gateway to be gone');
  const folder = join(app.dataDir, 'link', instanceId);
  const socket = (await readdir(folder)).find((name) => name.endsWith('.sock')) ?? '';
  return { ...who, instanceId, socket: join(folder, socket), token: (await readFile(join(folder, 'token'), 'utf8')).trim() };
}

/** Asked for by the admin, who has no rate limit. */
async function status(who: Tenant) {
  return (await app.get(`/api/v1/users/${who.id}/deploy/status`, app.adminKey)).json.deployments[0];
}

/** While `attack` goes on, and a little longer, everything else is as ever; answers what came of the attack. */
async function meanwhile<T>(attack: Promise<T>): Promise<T> {
  let over = false;
  const ended = attack.finally(() => (over = true));
  ended.catch(() => undefined); // Said below, where it is awaited.
  let rounds = 0;
  for (; rounds < 5 || !over; rounds++) {
    expect((await app.get('/health')).status).toBe(200);
    expect(await say(app, bob, `still there ${rounds}?`)).toBe(`You said: still there ${rounds}?`);
    // Somebody who talks, and not a second attack.
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(rounds).toBeGreaterThanOrEqual(5);
  return ended;
}

async function attack(who: { socket: string; token: string }, what: string): Promise<Record<string, number>> {
  return JSON.parse((await run(process.execPath, [ATTACKER, who.socket, who.token, what])).stdout);
}

/** A raw call of an instance: what it is answered. */
async function call(
  socket: string,
  token: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string }> {
  const { request } = await import('node:http');
  return new Promise((resolve, reject) => {
    const asked = request({
      socketPath: socket,
      path: '/v1/chat/completions',
      method: 'POST',
      agent: false,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    });
    asked.on('response', (response) => {
      let text = '';
      response
        .on('data', (bytes: Buffer) => (text += bytes.toString()))
        .on('end', () => resolve({ status: response.statusCode ?? 0, text }))
        .on('error', reject);
    });
    asked.on('error', reject);
    asked.end(JSON.stringify(body));
  });
}

const question = (model: string, content = 'hi') => ({ model, stream: true, messages: [{ role: 'user', content }] });

/** Lets the instance's gateway answer so from now on, also after its link was cut. Answers what ends it. */
async function dial(
  who: Hostile,
  answer: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
): Promise<() => void> {
  let ended = false;
  let gateway = new Gateway(answer);
  await gateway.dial(who.socket, who.token);
  const again = setInterval(() => {
    if (ended || !gateway.socket?.destroyed) return;
    gateway = new Gateway(answer);
    gateway.dial(who.socket, who.token).catch(() => gateway.socket?.destroy());
  }, 200);
  await until(() => gateway.session !== undefined, 'the link');
  return () => {
    ended = true;
    clearInterval(again);
    gateway.close();
  };
}

describe('an instance that calls where it should not', () => {
  test('has no way in with a wrong token, another deployment’s, or none', async () => {
    const [one, other] = [await hostile(), await hostile()];
    for (const token of ['wrong', other.token, 'x'.repeat(500)])
      expect((await call(one.socket, token, question('demo/echo'))).status).toBe(401);
    expect((await call(one.socket, one.token, question('demo/echo'))).status).toBe(200);
    await expect(new Gateway(() => undefined).dial(one.socket, other.token)).rejects.toMatchObject({ status: 401 });
    expect((await app.get('/api/v1/usage', other.key)).json.totals.calls).toBe(0);
  });

  test('gets no model that is not its agents’ own, and pays for what it asks whatever it says it is', async () => {
    const eve = await hostile();
    for (const model of ['openai/gpt-4.1', 'demo/other', 'demo', '', '../demo/echo', 'openclaw/a', bob.agent.id]) {
      const answer = await call(eve.socket, eve.token, question(model));
      expect([model, answer.status]).toEqual([model, expect.toSatisfy((code: number) => code === 400 || code === 403)]);
    }
    const before = (await app.get('/api/v1/usage', bob.key)).json.totals;
    const forged = {
      'x-berth-agent': bob.agent.name,
      'x-berth-turn': 'trn_01k00000000000000000000000',
      'x-berth-user': bob.id,
      'x-api-key': bob.key,
      'x-workspace-id': bob.id,
    };
    for (const agent of [bob.agent.id, 'nobody', '../a', 'x'.repeat(200)]) {
      expect((await call(eve.socket, eve.token, question('demo/echo'), { ...forged, 'x-berth-agent': agent })).status).toBe(200);
    }
    await until(async () => (await app.get('/api/v1/usage', eve.key)).json.totals.calls >= 4, 'the usage rows');
    expect((await app.get('/api/v1/usage', eve.key)).json.by_agent.map((row: { agent: string }) => row.agent)).toEqual([
      eve.agent.name,
    ]);
    expect((await app.get('/api/v1/usage', bob.key)).json.totals).toEqual(before);
  });

  test('reaches nothing of the public API', async () => {
    const eve = await hostile();
    const { request } = await import('node:http');
    for (const path of [
      '/api/v1/users',
      '/health',
      '/metrics',
      '/openapi.json',
      '/link',
      '/berth/v1/config',
      '//v1/models',
      '/v1/../metrics',
    ]) {
      const code = await new Promise<number>((resolve, reject) => {
        request(
          {
            socketPath: eve.socket,
            path,
            agent: false,
            headers: { authorization: `Bearer ${eve.token}`, 'x-api-key': app.adminKey },
          },
          (response) => (response.resume(), resolve(response.statusCode ?? 0)),
        )
          .on('error', reject)
          .end();
      });
      expect([path, code]).toEqual([path, 404]);
    }
  });
});

describe('an instance that attacks its socket harms only itself', () => {
  test.each([
    'garbage',
    'a header without end',
    '10,000 connections',
    '1,000 chats',
    'many tunnels',
    'bodies of 25 MB',
    'deep bodies',
  ])(
    'with %s',
    async (what) => {
      const eve = await hostile();
      const counts = await meanwhile(attack(eve, what));
      expect(Object.keys(counts).filter((answer) => answer.startsWith('5'))).toEqual([]);
      if (what !== '1,000 chats') expect(counts['200']).toBeUndefined();
      if (what === '10,000 connections' || what === 'garbage')
        expect((await status(eve)).reason).toMatch(
          /its link was cut: (opened connections without end|kept calling after it was refused)/,
        );
    },
    180_000,
  );

  test.each(['unknown', 'ping', 'settings', 'window', 'chunks', 'http'])(
    'with a flood of "%s"',
    async (kind) => {
      const eve = await hostile();
      const child = spawn(process.execPath, [FLOODER, eve.socket, eve.token, kind], { stdio: ['ignore', 'pipe', 'inherit'] });
      await meanwhile(once(child, 'exit'));
      await until(async () => (await status(eve)).reason?.startsWith('its link was cut'), 'the status to say so');
    },
    180_000,
  );

  test('by reading nothing of what it asked for', async () => {
    const eve = await hostile();
    const sockets = await Promise.all(Array.from({ length: 40 }, () => rawConnect(eve.socket)));
    const body = JSON.stringify(question('demo/echo', '/words 10000'));
    for (const socket of sockets) {
      socket.pause();
      socket.write(
        `POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer ${eve.token}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
    }
    await meanwhile(until(async () => (await app.get('/api/v1/usage', eve.key)).json.totals.calls >= 20, 'the calls to begin'));
    for (const socket of sockets) socket.destroy();
  });
});

describe('an instance whose gateway answers as it likes', () => {
  test.each<[string, RegExp, (response: Http2ServerResponse) => void]>([
    ['garbage', /did not confirm/, (response) => response.end('\0\xff{not json')],
    ['the wrong version', /did not confirm/, (response) => response.end('{"version":999999,"agents":[]}')],
    ['JSON that is no object', /did not confirm/, (response) => response.end('null')],
    ['a refusal', /refused its configuration: no/, (response) => void response.writeHead(400).end('{"error":{"message":"no"}}')],
    ['a strange status', /refused its configuration/, (response) => void response.writeHead(599).end()],
    ['10 MB', /longer than|lost/, (response) => void response.end(Buffer.alloc(10_000_000, 0x20))],
    ['a reset', /link|lost|closed/, (response) => response.stream.close(2)],
    [
      'headers of 40 KB',
      /headers|link|lost/,
      (response) => void response.writeHead(200, { 'x-much': 'a'.repeat(40_000) }).end('{}'),
    ],
  ])(
    'to its configuration with %s: the deployment says why, tries again ever later, and others notice nothing',
    async (_, why, answer) => {
      const eve = await hostile();
      let asked = 0;
      const hangUp = await dial(eve, (request, response) => {
        request.resume();
        if (request.method !== 'PUT') return void response.writeHead(404).end();
        asked += 1;
        answer(response);
      });
      const changed = await app.call('PUT', `/api/v1/agents/${eve.agent.name}`, { key: eve.key, body: { instructions: 'new' } });
      expect(changed.status, changed.text).toBe(200);
      await meanwhile(
        until(
          async () => (await status(eve)).attempts >= 3,
          () => 'three attempts',
        ),
      );
      const now = await status(eve);
      expect(now).toMatchObject({ state: 'failing', reason: expect.stringMatching(why) });
      expect(Date.parse(now.next_attempt_at) - Date.now()).toBeGreaterThan(0);
      expect(asked).toBeGreaterThanOrEqual(1);
      hangUp();
    },
  );

  test('to its configuration never: the deployment says so, and others notice nothing', async () => {
    const eve = await hostile();
    const hangUp = await dial(eve, (request) => void request.resume());
    await app.call('PUT', `/api/v1/agents/${eve.agent.name}`, { key: eve.key, body: { instructions: 'new' } });
    await meanwhile(
      until(async () => (await status(eve)).reason?.includes('did not answer within 10000 ms'), 'the status to say so'),
    );
    expect(await status(eve)).toMatchObject({ state: 'failing', next_attempt_at: expect.any(String) });
    hangUp();
  });

  test('to a turn with garbage: the turn ends in an error, the next one is tried anew', async () => {
    const eve = await hostile();
    const answers: ((response: Http2ServerResponse) => void)[] = [
      (response) => response.end('data: {nonsense\n\n'),
      (response) => response.end('data: null\n\n'),
      (response) => response.end(`data: {"choices":[{"delta":{"content":{"a":1}}}]}\n\n`),
      (response) => response.end(''),
      (response) => void response.write(`data: ${'x'.repeat(1_200_000)}`),
      (response) => response.stream.close(8),
      (response) => void response.writeHead(500).end('oh no'),
      (response) => void response.writeHead(200, { 'content-length': '5' }).end('data: [DONE]\n\n'),
    ];
    for (const answer of answers) {
      const hangUp = await dial(eve, (request, response) => {
        request.resume();
        if (request.method === 'PUT') return response.end('{}');
        answer(response);
      });
      const said = await meanwhile(
        app.post(`/api/v1/agents/${eve.agent.name}/chat`, eve.key, { messages: [{ role: 'user', content: 'hi' }] }),
      );
      expect([String(answer), said.status]).toEqual([
        String(answer),
        expect.toSatisfy((code: number) => code === 502 || code === 503),
      ]);
      expect(said.json.error).not.toContain('internal');
      hangUp();
    }
  });

  test('to a turn with a million events that say nothing: it is ended', async () => {
    const eve = await hostile();
    const piece = 'data: {"choices":[{"delta":{}}]}\n\n'.repeat(1_000);
    const hangUp = await dial(eve, (request, response) => {
      request.resume();
      if (request.method === 'PUT') return response.end('{}');
      let sent = 0;
      const more = () => {
        while (sent++ < 1_000) if (!response.write(piece)) return void response.once('drain', more);
        response.end();
      };
      more();
    });
    const said = await meanwhile(
      app.post(`/api/v1/agents/${eve.agent.name}/chat`, eve.key, { messages: [{ role: 'user', content: 'hi' }] }),
    );
    expect([502, 503]).toContain(said.status);
    hangUp();
  });
});

test('an honest instance keeps its link through more turns in a row than a server lets be reset', async () => {
  const who = await tenant(app, { tier: 'business' });
  const { id } = (await status(who)).instance;
  let links = 0;
  const sockets = new Set<unknown>();
  app.gateways.script = (_, response) => {
    sockets.add(response.stream.session);
    links = sockets.size;
    response.end('data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n');
  };
  const keys = await Promise.all(
    [1, 2].map(async () => (await app.post('/api/v1/users/me/keys', who.key, {})).json.api_key as string),
  );
  let left = 1_200;
  await Promise.all(
    Array.from({ length: 10 }, async (_, n) => {
      while (left-- > 0)
        expect(
          (await app.post('/api/v1/agents/a/chat', keys[n % 2], { messages: [{ role: 'user', content: 'x' }] })).status,
        ).toBe(200);
    }),
  );
  app.gateways.script = undefined;
  expect(links).toBe(1);
  expect((await status(who)).instance.id).toBe(id);
}, 240_000);
