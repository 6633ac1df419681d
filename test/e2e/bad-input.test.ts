import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type Answer, type TestApp } from '../support/app.js';
import { FakeClawHub } from '../support/fake-clawhub.js';
import { type Tenant, tenant } from './inside.js';

interface Schema {
  $ref?: string;
  type?: string | string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  items?: Schema;
  enum?: unknown[];
  anyOf?: Schema[];
  oneOf?: Schema[];
}
interface Operation {
  requestBody?: { content: Record<string, { schema: Schema }> };
}
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}
interface Route {
  method: string;
  /** With `{user}` and the like. */
  path: string;
  schema: Schema | undefined;
}

/** Nothing that is refused may come back to whoever sent it, or to whoever reads over its shoulder. */
const CANARY = 'canary-5f3a91';

let app: TestApp;
let registry: FakeClawHub;
let bob: Tenant;
let key: string;
let document: Document;
let routes: Route[];

beforeAll(async () => {
  registry = await FakeClawHub.start();
  app = await startApp({
    env: { CLAWHUB_URL: registry.url },
    app: { rates: { perAddress: 1_000_000, failuresPerAddress: 1_000_000 } },
  });
  bob = await tenant(app, { tier: 'business' });
  const keys = await app.post('/api/v1/users/me/keys', bob.key, {});
  key = keys.json.id;
  document = (await app.get('/openapi.json')).json;
  routes = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([method]) => method !== 'get')
      .map(([method, { requestBody }]) => ({
        method: method.toUpperCase(),
        path,
        schema: requestBody && resolved(requestBody.content['application/json']?.schema),
      })),
  );
  expect(routes.filter((route) => route.schema).length).toBeGreaterThan(5);
});
afterAll(async () => {
  await app.stop();
  await registry.stop();
});

function resolved(schema: Schema | undefined): Schema | undefined {
  if (!schema?.$ref) return schema;
  return document.components.schemas[schema.$ref.replace('#/components/schemas/', '')];
}

/** The object that a body is, in the first of its forms. */
function shapeOf(schema: Schema): Schema {
  const first = [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])].map((one) => resolved(one)!).find((one) => one.properties);
  return first ?? schema;
}

function fill(path: string, values: Record<string, string> = {}): string {
  const known: Record<string, string> = { user: bob.id, agent: bob.agent.name, key, ...values };
  return path.replaceAll(/\{(\w+)\}/g, (_, name: string) => known[name] ?? encodeURIComponent(name));
}

/** Sends as the admin, who may do everything, so that nothing is refused for another reason. */
async function send(
  route: Route,
  body: string | Buffer,
  headers: Record<string, string> = {},
  path = fill(route.path),
): Promise<Answer> {
  const response = await fetch(`${app.url}${path}`, {
    method: route.method,
    headers: { 'x-api-key': app.adminKey, 'content-type': 'application/json', ...headers },
    body,
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    text,
    get json() {
      return JSON.parse(text);
    },
  };
}

/** What the database holds of users, agents and keys. */
async function everything(): Promise<string> {
  const [users, agents, keys] = await Promise.all(
    ['/users?limit=100', `/users/${bob.id}/agents`, `/users/${bob.id}/keys`].map((path) =>
      app.get(`/api/v1${path}`, app.adminKey),
    ),
  );
  return `${users!.text}${agents!.text}${keys!.text}`;
}

/** For each, some at a time: what is sent to one tells nothing of another. */
async function eachOf<T>(items: readonly T[], check: (item: T) => Promise<void>): Promise<void> {
  const left = [...items];
  const next = async (): Promise<void> => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await check(item);
  };
  await Promise.all(Array.from({ length: 8 }, next));
}

const bodies = () => routes.filter((route): route is Route & { schema: Schema } => route.schema !== undefined);

/** Sends to every route with a body; what does not hold is collected, so that one failure shows them all. */
async function everywhere(
  wrong: (route: Route & { schema: Schema }) => (string | Buffer)[],
  expected: { statuses: number[]; field: RegExp | undefined },
  headers: Record<string, string> = {},
): Promise<void> {
  const before = await everything();
  const problems: string[] = [];
  await eachOf(bodies(), async (route) => {
    for (const body of wrong(route)) {
      const answer = await send(route, body, headers);
      const said = `${route.method} ${route.path} ${typeof body === 'string' ? body.slice(0, 80) : '(bytes)'}: ${answer.status} ${answer.text.slice(0, 300)}`;
      if (!expected.statuses.includes(answer.status)) problems.push(`status: ${said}`);
      else if (answer.text.includes(CANARY)) problems.push(`echo: ${said}`);
      else if (expected.field && !expected.field.test(fieldOf(answer))) problems.push(`field: ${said}`);
    }
  });
  expect(problems).toEqual([]);
  expect(await everything()).toBe(before);
}

/** The field that an answer names, in Berth's shape or OpenAI's. */
function fieldOf(answer: Answer): string {
  return fieldsOf(answer)[0] ?? '';
}

function fieldsOf(answer: Answer): string[] {
  const { fields, error } = answer.json as { fields?: { path: string }[]; error?: { param?: string } };
  return fields?.map(({ path }) => path) ?? (error?.param === undefined ? [] : [error.param]);
}

describe('a body that is not what it should be', () => {
  test('malformed JSON, in many ways', async () => {
    await everywhere(
      () => [
        '',
        ' ',
        '{',
        '{"a":',
        '[1,]',
        "{'a':1}",
        `{"a":"${CANARY}`,
        CANARY,
        '{"a":1}{"b":2}',
        'NaN',
        '{"a":01}',
        '\ufeff{',
        '{"a":"\u0001"}',
        'undefined',
        '[]]',
      ],
      { statuses: [400], field: /^(body|[a-z_]+)/ },
    );
  });

  test('bytes that are no text', async () => {
    await everywhere(
      () => [
        Buffer.from([0xff, 0xfe, 0x7b]),
        Buffer.from('{"name":"\xc3\x28"}', 'latin1'),
        Buffer.from([0xed, 0xa0, 0x80]),
        Buffer.from('{"name":"a"}', 'utf16le'),
      ],
      { statuses: [400], field: /^body/ },
    );
  });

  test('nested 10,000 levels deep', async () => {
    await everywhere(
      () => [
        '['.repeat(10_000) + ']'.repeat(10_000),
        '{"a":'.repeat(10_000) + '1' + '}'.repeat(10_000),
        `{"name":${'['.repeat(10_000)}${']'.repeat(10_000)}}`,
      ],
      { statuses: [400], field: /^body/ },
    );
  });

  test('of another type altogether', async () => {
    // Where names are the caller's own, one may be `agents`, and null takes it away.
    const named = ({ schema }: { schema: Schema }) => (schema.additionalProperties ? [] : ['{"agents":null}']);
    await everywhere((route) => ['null', 'true', '0', `"${CANARY}"`, '[null]', '[[]]', '[1]', ...named(route)], {
      statuses: [400],
      field: /./,
    });
  });

  test('of 10 MB', async () => {
    await everywhere(() => [Buffer.alloc(10_000_000, 0x20)], { statuses: [413], field: undefined });
  });

  test('of another media type, or none', async () => {
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/xml',
      'application/jsonp',
      '',
      'json',
      'application/json/x',
      'x'.repeat(1_000),
    ]) {
      await everywhere(() => [`{"name":"${CANARY}"}`], { statuses: [415], field: undefined }, { 'content-type': type });
    }
  });

  test('with fields of the wrong type: each is named, none comes back', async () => {
    const problems: string[] = [];
    let tried = 0;
    await eachOf(bodies(), async (route) => {
      const shape = shapeOf(route.schema);
      for (const name of Object.keys(shape.properties ?? {})) {
        for (const value of [
          { [CANARY]: 1 },
          [[CANARY]],
          `${CANARY}\0`,
          '\ud800',
          CANARY.repeat(2_000),
          `😀${CANARY}`,
          `../${CANARY}`,
          -1e308,
          [{}],
          { __proto__: null, constructor: CANARY },
        ]) {
          const answer = await send(route, JSON.stringify({ ...minimal(shape), [name]: value }));
          tried += 1;
          if (answer.status < 300 && typeof value === 'string') continue; // Free text takes what is text.
          if (answer.status < 300 && JSON.stringify(shape.properties?.[name]).includes('"additionalProperties":{')) continue; // A map, its keys free.
          if (name === 'model' && answer.status === 404) continue; // Named as OpenAI names it.
          const said = `${route.method} ${route.path} ${name}=${JSON.stringify(value).slice(0, 40)}: ${answer.status} ${answer.text.slice(0, 300)}`;
          if (answer.status >= 500 || answer.status < 400) problems.push(`status: ${said}`);
          else if (answer.text.replaceAll(/"path":"[^"]*"|"detail":"[^"]*"/g, '').includes(CANARY))
            problems.push(`echo: ${said}`);
          else if (answer.status === 400 && fieldOf(answer) === '') problems.push(`field: ${said}`);
        }
      }
    });
    expect(tried).toBeGreaterThan(100);
    expect(problems).toEqual([]);
  }, 180_000);

  test('with a field that nobody knows, which would be a wish unheard; with __proto__ it changes nothing', async () => {
    const problems: string[] = [];
    await eachOf(bodies(), async (route) => {
      const shape = shapeOf(route.schema);
      for (const name of ['surprise', '__proto__', 'constructor', 'toString', 'x'.repeat(10_000), '', '😀', 'a.b', '$where']) {
        const answer = await send(
          route,
          `{${JSON.stringify(name)}:{"polluted":"${CANARY}"},${JSON.stringify(minimal(shape)).slice(1)}`.replace(/,\}$/, '}'),
        );
        const said = `${route.method} ${route.path} ${name.slice(0, 40)}: ${answer.status} ${answer.text.slice(0, 200)}`;
        if (answer.status >= 500) problems.push(`status: ${said}`);
        else if (answer.text.includes(CANARY)) problems.push(`echo: ${said}`);
        else if (
          name === 'surprise' &&
          route.path !== '/v1/chat/completions' &&
          (answer.status !== 400 || !fieldsOf(answer).some((path) => path.endsWith('surprise')))
        )
          problems.push(`heard: ${said}`);
      }
    });
    expect(problems).toEqual([]);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  }, 180_000);

  test('with one name twice is taken by its last, or refused; never half', async () => {
    const answer = await send(
      { method: 'POST', path: '/api/v1/users', schema: undefined },
      '{"name":"first-name","name":"last-name"}',
    );
    expect(answer.status).toBe(201);
    expect((await app.get('/api/v1/users/first-name', app.adminKey)).status).toBe(404);
    expect((await app.get('/api/v1/users/last-name', app.adminKey)).status).toBe(200);
  });
});

/** The required fields with values that may do. */
function minimal(shape: Schema): Record<string, unknown> {
  const values: Record<string, unknown> = {
    messages: [{ role: 'user', content: 'hi' }],
    model: 'berth/a',
    tier: 'business',
    plugin_ids: [],
  };
  return Object.fromEntries(
    (shape.required ?? []).map((name) => [name, values[name] ?? `n${Math.random().toString(36).slice(2)}`]),
  );
}

describe('a path that is not what it should be', () => {
  const SEGMENTS = [
    '..',
    '.',
    '%2e%2e',
    '%2e%2e%2f..',
    'a%2fb',
    'a%5cb',
    'a%00b',
    '%00',
    '%0a',
    '%ff',
    '%c3%28',
    '%',
    '%zz',
    '%F0%9F%98%80',
    '%ED%A0%80',
    'x'.repeat(10_000),
    '__proto__',
    'constructor',
    "'%20or%201=1--",
    '%25%32%65',
    '*',
    '%7Buser%7D',
    'null',
    'undefined',
    '-1',
    '%20',
  ];

  test('is refused or found to be nothing, on every route and in every parameter', async () => {
    const before = await everything();
    const problems: string[] = [];
    let tried = 0;
    await eachOf(Object.entries(document.paths), async ([path, item]) => {
      for (const parameter of path.match(/\{\w+\}/g) ?? []) {
        for (const method of Object.keys(item)) {
          for (const segment of SEGMENTS) {
            const status = await raw(
              method.toUpperCase(),
              path.replace(parameter, segment).replaceAll(/\{(\w+)\}/g, (_, name: string) => fill(`{${name}}`)),
            );
            tried += 1;
            // An archive is imported under a name that may well look odd: what is refused then is the archive.
            const isNewName = path.endsWith('/agents/{agent}/import') && status === 422;
            if (!isNewName && ![400, 404, 405, 414, 431].includes(status))
              problems.push(`${method} ${path} ${parameter}=${segment.slice(0, 30)}: ${status}`);
          }
        }
      }
    });
    expect(tried).toBeGreaterThan(500);
    expect(problems).toEqual([]);
    expect(await everything()).toBe(before);
  }, 180_000);

  /** As it stands: `fetch` would tidy the path up first. Answers the status. */
  function raw(method: string, path: string): Promise<number> {
    const hasBody = method === 'POST' || method === 'PUT';
    const body = hasBody ? 'Content-Type: application/json\r\nContent-Length: 2\r\n' : '';
    return exchange(
      `${method} ${path} HTTP/1.1\r\nHost: berth\r\nX-Api-Key: ${app.adminKey}\r\n${body}Connection: close\r\n\r\n${hasBody ? '{}' : ''}`,
    );
  }

  test('headers without end, of strange characters, or twice', async () => {
    const head = `GET /api/v1/users/me HTTP/1.1\r\nHost: berth\r\nX-Api-Key: ${bob.key}\r\n`;
    expect(await exchange(`${head}X-Much: ${'a'.repeat(100_000)}\r\n\r\n`)).toBe(431);
    expect(
      await exchange(
        `${head}Connection: close\r\nX-Request-Id: ${'a'.repeat(5_000)}\r\nIf-Match: \xff\r\nIdempotency-Key: ${'k'.repeat(5_000)}\r\n\r\n`,
      ),
    ).toBeLessThan(500);
    expect(await exchange(`${head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n`)).toBe(400);
    expect(await exchange('GET / HTTP/9.9\r\n\r\n')).toBe(400);
    expect(await exchange('\0\0\0\0\r\n\r\n')).toBe(400);
  });

  function exchange(text: string): Promise<number> {
    const { hostname, port } = new URL(app.url);
    return new Promise((resolve, reject) => {
      let said = '';
      const socket = connect(Number(port), hostname, () => socket.write(text, 'latin1'));
      socket.on('data', (bytes) => (said += bytes.toString('latin1'))).on('error', reject);
      socket.on('close', () => {
        const status = /^HTTP\/1\.1 (\d{3}) /.exec(said)?.[1];
        const body = said.slice(said.indexOf('\r\n\r\n') + 4);
        if (status && body.startsWith('{')) resolve(Number(status));
        else reject(new Error(`no answer of Berth’s: ${said.slice(0, 200)}`));
      });
    });
  }
});

describe('the same request twice at once', () => {
  test('makes one of each thing that can be once', async () => {
    const twice = <T>(ask: () => Promise<T>): Promise<T[]> => Promise.all([ask(), ask(), ask()]);
    const statuses = (answers: Answer[]) => answers.map((answer) => answer.status).toSorted();
    const name = 'double';
    expect(statuses(await twice(() => app.post('/api/v1/users', app.adminKey, { name })))).toEqual([201, 409, 409]);
    const user = await app.user();
    expect(
      statuses(await twice(() => app.post(`/api/v1/users/${user.id}/agents`, user.key, [{ name: 'x' }, { name: 'y' }]))),
    ).toEqual([202, 409, 409]);
    expect((await app.get(`/api/v1/users/${user.id}/agents`, user.key)).json.data).toHaveLength(2);
    const rotated = await twice(() => app.post(`/api/v1/users/${user.id}/agents/x/rotate-key`, user.key, undefined));
    expect(statuses(rotated).filter((status) => status >= 500)).toEqual([]);
    const alive = await Promise.all(
      rotated
        .filter(({ status }) => status === 200)
        .map(({ json }) => app.get(`/api/v1/users/${user.id}/agents/x`, json.api_key)),
    );
    expect(alive.filter(({ status }) => status === 200)).toHaveLength(1);
    expect(
      statuses(
        await twice(() =>
          app.call('PUT', `/api/v1/users/${user.id}/agents/x`, {
            key: user.key,
            body: { description: 'd' },
            headers: { 'if-match': '"1"' },
          }),
        ),
      ),
    ).toEqual([200, 412, 412]);
    expect(statuses(await twice(() => app.call('DELETE', `/api/v1/users/${user.id}/agents/x`, { key: user.key })))).toEqual([
      202, 404, 404,
    ]);
    const gone = statuses(await twice(() => app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })));
    expect(gone.filter((status) => status !== 202 && status !== 404)).toEqual([]);
    expect(gone).toContain(202);
  });
});
