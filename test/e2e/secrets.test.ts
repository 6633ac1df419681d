import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { Writable } from 'node:stream';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';
import { instanceOf, shell, type Tenant, tenant } from './inside.js';

const run = promisify(execFile);
const docker = async (...args: string[]) =>
  (await run('docker', args, { encoding: 'buffer', maxBuffer: 64 * 1024 * 1024 })).stdout;
const digestOf = (value: string) => createHash('sha256').update(value).digest('hex');

describe('a secret, in real containers', () => {
  let app: TestApp;
  let bob: Tenant;
  /** All that Berth logs, at its most talkative. */
  let logged = '';
  const value = `canary/${randomBytes(18).toString('base64')}?`;
  const spellings = [
    value,
    ...[0, 1, 2].map((offset) =>
      Buffer.from('x'.repeat(offset) + value)
        .toString('base64')
        .slice(offset === 0 ? 0 : 4, -4),
    ),
    encodeURIComponent(value),
  ];

  beforeAll(async () => {
    const sink = new Writable({
      write(chunk, _, done) {
        logged += String(chunk);
        done();
      },
    });
    app = await startApp({ runtime: 'docker', app: { log: pino({ level: 'trace' }, sink) } });
    bob = await tenant(app);
  }, 120_000);
  afterAll(() => app.stop());

  const put = async (body: object, of = '') => {
    const answer = await app.call('PUT', `/api/v1${of}/secrets`, { key: bob.key, body });
    expect(answer.status, answer.text).toBe(200);
  };
  /** So that the value itself is nowhere in what the agent says, which is its own to keep. */
  const digestInside = async (who: Tenant = bob) =>
    (await shell(app, who, 'printf %s "$CANARY" | sha256sum | cut -c1-64')).match(/[0-9a-f]{64}/)?.[0];

  test('is in the environment of the next turn’s tools, and gone from it with the next', async () => {
    expect(await digestInside()).toBe(digestOf(''));
    for (const wanted of ['first', 'second', value]) {
      await put({ CANARY: wanted });
      expect(await digestInside()).toBe(digestOf(wanted));
    }
    await put({ CANARY: 'of the agent alone' }, '/agents/a');
    expect(await digestInside()).toBe(digestOf('of the agent alone'));
    await put({ CANARY: null }, '/agents/a');
    expect(await digestInside()).toBe(digestOf(value));
  });

  test('is not in docker inspect, the image, the environment of the gateway, or the volume', async () => {
    const { container } = await instanceOf(app, bob);
    expect(await digestInside()).toBe(digestOf(value));
    const inspected = (await docker('inspect', container)).toString();
    const image = JSON.parse(inspected)[0].Image as string;
    const history =
      (await docker('history', '--no-trunc', image)).toString() + (await docker('image', 'inspect', image)).toString();
    const environment = await shell(app, bob, 'tr "\\0" "\\n" < /proc/1/environ; cat /proc/1/cmdline | tr "\\0" " "');
    expect(environment).toContain('PATH=');
    const volume = await docker('cp', `${container}:/data`, '-');
    expect(volume.length).toBeGreaterThan(1_000);
    for (const spelling of spellings) {
      for (const [where, text] of Object.entries({ inspected, history, environment }))
        expect(text, where).not.toContain(spelling);
      expect(volume.includes(spelling), 'volume').toBe(false);
    }
    // As the tenant, who sees more of its folders than an archive has; never on a command line, which /proc would show.
    const search = 'echo "found in $(grep -rlF -- "$CANARY" /data /tmp /run/berth 2>/dev/null | wc -l) files"';
    expect(await shell(app, bob, search)).toContain('found in 0 files');
  });

  test('is taken out of what its programs print to the log, in all its forms', async () => {
    await shell(
      app,
      bob,
      'for form in "$CANARY" "$(printf %s "$CANARY" | base64 -w0)" "$(printf xy%s "$CANARY" | base64 -w0)"; do echo "printed: $form" > /proc/1/fd/1; done',
    );
    const lines = async () =>
      (await app.get('/api/v1/logs?tail=200', bob.key)).json.data.map((line: { message: string }) => line.message) as string[];
    await until(
      async () => (await lines()).filter((line) => /^printed: .{0,4}\[secret CANARY\].{0,4}$/.test(line)).length === 3,
      () => 'the lines to come without it',
    );
    const said = (await lines()).join('\n');
    for (const spelling of spellings) expect(said).not.toContain(spelling);
  });

  test('is not in Berth’s own log, nor in its database', async () => {
    await app.call('PUT', '/api/v1/secrets', { key: bob.key, body: { CANARY: value, 'NOT-A-NAME': value } });
    await app.call('PUT', `/api/v1/secrets?${encodeURIComponent('x')}`, { key: bob.key, body: `{"CANARY":"${value}"` });
    expect(logged).toContain('"route":"/api/v1/users/:user/secrets"');
    for (const spelling of spellings) expect(logged).not.toContain(spelling);
  });

  test('that was altered in the database keeps an agent from being told anything new, and says so', async () => {
    await app.database.db.updateTable('secrets').set({ version: 99 }).where('user_id', '=', bob.id).execute();
    await put({ OTHER: 'x' });
    const status = async () => (await app.get('/api/v1/deploy/status', bob.key)).json.deployments[0];
    await until(async () => (await status()).state === 'failing', 'the deployment to fail');
    expect((await status()).reason).toMatch(/^the secret CANARY does not open/);
    const chat = app.post('/api/v1/agents/a/chat', bob.key, { messages: [{ role: 'user', content: 'hello' }] });
    await put({ CANARY: 'mended' });
    expect((await chat).status).toBe(200);
    expect(await digestInside()).toBe(digestOf('mended'));
  });
});
