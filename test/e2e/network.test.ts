import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { canSplit, Internet } from '../link/internet.js';
import { makeTestFolder } from '../support/database.js';
import { until } from '../support/until.js';

// Berth as it is started, but in a network namespace whose only way leads to a small internet of upstreams with public addresses; the
// engine is reached by its unix socket, as ever. What is tried is tried from inside a real container, by the agent's own tools.

const PORT = 8090;
let internet: Internet;
let api: string;
let adminKey: string;
let key: string;

/** A git repository and an npm registry of plain files. */
function makeFiles(dir: string): string {
  const files = path.join(dir, 'files');
  const repo = path.join(dir, 'repo');
  const git = (...args: string[]) =>
    execFileSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@localhost', ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  for (const folder of [files, repo, path.join(files, '-'), path.join(files, 'tiny'), path.join(dir, 'package')])
    mkdirSync(folder, { recursive: true });
  git('init', '-q', repo);
  writeFileSync(path.join(repo, 'hello'), 'hello from git\n');
  git('-C', repo, 'add', '.');
  git('-C', repo, 'commit', '-qm', 'first');
  git('clone', '-q', '--bare', repo, path.join(files, 'repo.git'));
  git('-C', path.join(files, 'repo.git'), 'update-server-info');
  writeFileSync(path.join(dir, 'package/package.json'), '{"name":"tiny","version":"1.0.0","main":"index.js"}');
  writeFileSync(path.join(dir, 'package/index.js'), 'module.exports = "hello from npm";\n');
  execFileSync('tar', ['-czf', path.join(files, 'tiny/tiny-1.0.0.tgz'), '-C', dir, 'package']);
  const version = { name: 'tiny', version: '1.0.0', dist: { tarball: 'http://npm.test/tiny/tiny-1.0.0.tgz' } };
  const index = { name: 'tiny', 'dist-tags': { latest: '1.0.0' }, versions: { '1.0.0': version } };
  writeFileSync(path.join(files, 'tiny/index.json'), JSON.stringify(index));
  writeFileSync(path.join(files, '-/ping'), '{}');
  return files;
}

beforeAll(async () => {
  if (!canSplit) return;
  internet = await Internet.start({ files: makeFiles });
  const { dir } = internet;
  mkdirSync(path.join(dir, 'd'), { mode: 0o700 });
  await makeTestFolder(path.join(dir, 'd/pg'));
  const berth = internet.run(path.resolve('src/main.ts'), [], {
    HOST: '0.0.0.0',
    PORT: String(PORT),
    DATA_DIR: path.join(dir, 'd'),
    RUNTIME: 'docker',
    DATABASE_URL: '',
    // Mounts of its namespace are not the engine's.
    DISK_LIMITS: 'soft',
    EGRESS_DENY: '93.184.217.0/24',
    LOG_LEVEL: 'warn',
    ORPHAN_GRACE_MS: '0',
  });
  berth.stdout?.resume();
  api = path.join(dir, 'api.sock');
  await once(internet.run(path.resolve('test/link/relay.mjs'), [api, String(PORT)]), 'message');
  await until(
    () =>
      call('GET', '/ready').then(
        ({ status }) => status === 200,
        () => false,
      ),
    'Berth to answer',
    60_000,
  );
  adminKey = readFileSync(path.join(dir, 'd/admin.key'), 'utf8').trim();
  key = (await call('POST', '/api/v1/users', { name: 'ada', tier: 'pro' }, adminKey)).json.api_key;
  await call('POST', '/api/agents', { name: 'a' });
  let status = '';
  await until(
    async () => {
      const { json } = await call('GET', '/api/deploy/status');
      status = JSON.stringify(json);
      return json.settled;
    },
    () => `the agent: ${status}`,
    60_000,
  );
}, 120_000);

afterAll(async () => {
  if (!canSplit) return;
  const installationId = readFileSync(path.join(internet.dir, 'd/installation.id'), 'utf8').trim();
  await internet.endChildren();
  const { DOCKER_HOST: dockerHost } = process.env;
  const runtime = new DockerRuntime({ installationId, log: createLog('silent'), ...(dockerHost ? { dockerHost } : {}) });
  const { instances, volumes } = await runtime.list();
  for (const instance of instances) await runtime.remove(instance.name);
  for (const volume of volumes) await runtime.removeVolume(volume.name);
  await runtime.close();
  await internet.stop();
});

afterEach(() => {
  expect(internet?.wrong() ?? []).toEqual([]);
});

// eslint-disable-next-line @typescript-eslint/no-explicit-any
function call(method: string, at: string, body?: unknown, as = key): Promise<{ status: number; json: any }> {
  return new Promise((resolve, reject) => {
    const headers = { 'x-api-key': as ?? '', ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
    const request = http.request({ socketPath: api, method, path: at, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, json: text === '' ? undefined : JSON.parse(text) }));
    });
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** What a command prints that the agent runs with its shell tool. */
async function shell(command: string): Promise<string> {
  const content = `/tool shell ${JSON.stringify({ command, timeout_s: 60 })}`;
  const { status, json } = await call('POST', '/api/agents/a/chat', { messages: [{ role: 'user', content }] });
  expect(status, JSON.stringify(json)).toBe(200);
  return (json.message as string).replace(/^Tool shell said: /, '');
}

async function setNetwork(network: unknown): Promise<void> {
  const { status, json } = await call('PATCH', '/api/agents/a/config', { network });
  expect(status, JSON.stringify(json)).toBe(200);
  expect(json.applies).toBe('live');
}

const generation = async () => (await call('GET', '/api/deploy/status')).json.deployments[0].instance.generation;

const FETCH = (url: string) =>
  `node -e 'fetch(${JSON.stringify(url)}).then(r => console.log("status", r.status), e => console.log("failed", e.cause?.message ?? e.message))' 2>/dev/null`;
const CURL = (url: string) => `curl -sk -o /dev/null -w '%{http_code} %{http_connect}' --max-time 10 --noproxy '' '${url}'`;

/** Each way out of a shell, and what it prints where it is let through. */
const WAYS: [way: string, command: string, allowed: RegExp][] = [
  ['curl over HTTP', CURL('http://site.test/'), /^200 000/],
  ['curl over HTTPS', CURL('https://site.test/'), /^200 200/],
  ['git over HTTP', 'rm -rf r && git clone -q http://git.test/repo.git r 2>&1; cat r/hello', /hello from git/],
  [
    'git over HTTPS',
    'rm -rf r && git -c http.sslVerify=false clone -q https://git.test/repo.git r 2>&1; cat r/hello',
    /hello from git/,
  ],
  ['npm ping', 'npm ping --registry http://npm.test/ 2>&1', /PONG/],
  ['npm view', 'npm view tiny version --registry http://npm.test/ 2>&1', /1\.0\.0/],
  [
    'npm install',
    'rm -rf n && mkdir n && cd n && npm init -y >/dev/null && npm install tiny --no-audit --no-fund --registry http://npm.test/ 2>&1; node -p \'require("tiny")\' 2>&1',
    /hello from npm/,
  ],
  ["Node's fetch over HTTP", FETCH('http://site.test/'), /^status 200/],
  ["Node's fetch over HTTPS", `NODE_TLS_REJECT_UNAUTHORIZED=0 ${FETCH('https://site.test/')}`, /^status 200/],
];

describe.runIf(canSplit)('from inside a container', () => {
  test('programs find the proxy in both spellings', async () => {
    const names = ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy', 'NODE_USE_ENV_PROXY'];
    const values = (await shell(`for n in ${names.join(' ')}; do printenv $n; done`)).split('\n');
    expect(values).toEqual([...Array<string>(4).fill('http://127.0.0.1:3128'), '1']);
  });

  test.each(WAYS)('without a network %s leads nowhere', async (_, command, allowed) => {
    const before = internet.reached.length;
    expect(await shell(command)).not.toMatch(allowed);
    expect(internet.reached.length).toBe(before);
  });

  describe('with a list of hosts, given while it runs', () => {
    beforeAll(async () => {
      if (!canSplit) return;
      await setNetwork({ mode: 'allowlist', hosts: ['site.test', '*.site.test', 'git.test', 'npm.test'] });
      expect(await generation()).toBe(1);
    });

    test.each(WAYS)('%s works', async (_, command, allowed) => {
      expect(await shell(command)).toMatch(allowed);
    });

    test.each([
      ['another host', 'http://other.test/'],
      ['another host over TLS', 'https://other.test/'],
      ['another port', 'http://site.test:8080/'],
      ['an address in place of the name', 'http://93.184.216.34/'],
      ['a redirect to another host', 'http://site.test/redirect?to=http%3A%2F%2Fother.test%2F'],
    ])('%s is refused', async (_, url) => {
      const before = internet.reached.filter(({ address }) => address.endsWith('93.184.216.35')).length;
      expect(await shell(`${CURL(url)} -L`)).toMatch(/403/);
      expect(await shell(FETCH(url))).toMatch(/^(status 403|failed)/);
      expect(internet.reached.filter(({ address }) => address.endsWith('93.184.216.35')).length).toBe(before);
    });
  });

  describe('with an open network', () => {
    beforeAll(async () => {
      if (!canSplit) return;
      await setNetwork('open');
      expect(await generation()).toBe(1);
    });

    test('whatever is public is reached', async () => {
      expect(await shell(CURL('http://other.test/'))).toMatch(/^200/);
      expect(await shell(CURL('https://six.test/'))).toMatch(/^200/);
    });

    test('nothing else is, in no spelling, by no name, and by no redirect', async () => {
      const hosts = [
        'private.test',
        'metadata.test',
        'cgnat.test',
        'loopback.test',
        'mapped.test',
        'nat64.test',
        'sixtofour.test',
        'self.test',
        'anyip.test',
        'denied.test',
        'many.test',
        '10.0.0.5',
        '192.168.7.7',
        '169.254.169.254',
        '100.64.0.5',
        '93.184.217.1',
        '45.33.1.1',
        `45.33.1.1:${PORT}`,
        '127.0.0.1',
        `127.0.0.1:${PORT}`,
        'localhost',
        '0.0.0.0',
        '224.0.0.1',
        '167772165',
        '0xa000005',
        '012.0.0.5',
        '10.5',
        '0x7f.1',
        '2130706433',
        '[::1]',
        '[::]',
        '[::ffff:10.0.0.5]',
        '[::ffff:a00:5]',
        '[64:ff9b::a00:5]',
        '[2002:a00:5::1]',
        '[fd00:ec2::254]',
        '[fe80::1]',
        '[ff02::1]',
        '[::10.0.0.5]',
      ];
      const urls = hosts.flatMap((host) => [
        `http://${host}/`,
        `https://${host}/`,
        `http://site.test/redirect?to=${encodeURIComponent(`http://${host}/`)}`,
      ]);
      const lines = await shell(
        `printf '%s\\n' ${urls.map((url) => `'${url}'`).join(' ')} | xargs -P 8 -I{} curl -skgL -o /dev/null -w '%{http_code} %{http_connect} {}\\n' --max-time 10 --noproxy '' '{}'`,
      );
      const through = lines.split('\n').filter((line) => /^2|^\d+ 200/.test(line));
      expect(through).toEqual([]);
      expect(lines.split('\n').filter((line) => line.includes('://')).length).toBe(urls.length);
    });

    test('raw proxy requests with hosts that programs would tidy up are refused', async () => {
      const hosts = [
        '127.1',
        '0x7f000001',
        '017700000001',
        '2130706433',
        '①②⑦.0.0.1',
        'localhost.',
        'private.test.',
        '::ffff:10.0.0.5',
        '',
      ];
      const program = `
import json, socket
for host in json.loads(${JSON.stringify(JSON.stringify(hosts))}):
    for text in ('CONNECT %s:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n', 'GET http://%s/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'):
        with socket.create_connection(('127.0.0.1', 3128), 10) as s:
            s.sendall((text % host).encode()); print(s.recv(64).decode('latin1')[9:12])`;
      const statuses = (await shell(`python3 - <<'PYTHON'\n${program}\nPYTHON`)).split('\n');
      expect(statuses).toHaveLength(2 * hosts.length);
      expect(statuses.filter((status) => !['400', '403', '502'].includes(status))).toEqual([]);
    });

    test('a name that changes its address between two looks leads nowhere the second time', async () => {
      expect(await shell(CURL('http://rebind.test/'))).toMatch(/^200/);
      expect(await shell(CURL('http://rebind.test/'))).toMatch(/^403/);
    });

    test('what is open is cut when the network is taken away', async () => {
      const before = internet.reached.length;
      const startedMs = performance.now();
      const hanging = shell('curl -s --max-time 50 http://site.test/hang; echo ended');
      await until(() => internet.reached.length > before, 'the connection');
      await setNetwork('none');
      expect(await hanging).toMatch(/ended/);
      expect(performance.now() - startedMs).toBeLessThan(20_000);
      expect(await generation()).toBe(1);
    });
  });

  test('all of it was counted, by host', async () => {
    const seen = async () => (await call('GET', '/api/agents/a/network?limit=200')).json;
    await until(async () => (await seen()).data.some((row: { host: string }) => row.host === 'rebind.test'), 'the counts');
    const { network, shared_with, data } = await seen();
    expect([network, shared_with]).toEqual([{ mode: 'none' }, []]);
    const of = (host: string, port: number) =>
      data.find((row: { host: string; port: number }) => row.host === host && row.port === port);
    expect(of('site.test', 443).connections).toBeGreaterThanOrEqual(2);
    expect(of('git.test', 443).bytes_down).toBeGreaterThan(500);
    expect(of('npm.test', 80).bytes_up).toBeGreaterThan(100);
    expect(of('other.test', 443)).toMatchObject({ connections: 0, bytes_down: 0 });
    expect(of('private.test', 443).refused).toBeGreaterThan(0);
    expect(of('site.test', 8080)).toMatchObject({ connections: 0 });
  });
});
