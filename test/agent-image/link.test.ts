import { rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { afterEach, beforeAll, afterAll, describe, expect, test } from 'vitest';
import { BerthStandIn, LinkFolder } from './berth.js';
import { begin, chunk, finish } from './demo-model.js';
import { agent, say, until } from './fixture.js';
import { GatewayProcess, bundledGateway } from './gateway.js';

let bundle: string;
const open: { close(): Promise<unknown> }[] = [];

beforeAll(async () => {
  bundle = await bundledGateway();
});
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing.close();
});
afterAll(() => rmSync(dirname(bundle), { recursive: true, force: true }));

function newFolder(): LinkFolder {
  const folder = new LinkFolder();
  open.push({ close: async () => folder.remove() });
  return folder;
}

async function newBerth(folder: LinkFolder, name?: string): Promise<BerthStandIn> {
  const berth = await new BerthStandIn(folder, name).listen();
  open.push({ close: () => berth.close().catch(() => undefined) });
  return berth;
}

function newGateway(folder: LinkFolder, env: Record<string, string> = {}): GatewayProcess {
  const gateway = new GatewayProcess(bundle, folder.dir, env).start();
  open.push({ close: () => gateway.remove() });
  return gateway;
}

describe('dialling', () => {
  test('comes up within a moment of the start', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    const started = performance.now();
    newGateway(folder);
    await berth.link();
    // About 110 ms; the bound is for a machine that runs ten other things.
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  test('takes up a link again at once when it is lost', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    newGateway(folder);
    await berth.link();
    const again = berth.nextLink();
    const lostAt = performance.now();
    berth.session?.destroy();
    await again;
    expect(performance.now() - lostAt).toBeLessThan(5_000);
    expect((await berth.request('GET', '/healthz')).status).toBe(200);
  });

  test('finds a socket that appears later, and one made anew by a Berth that came back', async () => {
    const folder = newFolder();
    newGateway(folder);
    const first = await newBerth(folder);
    await first.link();
    await first.close();
    const second = await newBerth(folder);
    await second.link();
    expect((await second.request('GET', '/healthz')).status).toBe(200);
  });

  test('keeps a link to each Berth process', async () => {
    const folder = newFolder();
    const [one, two] = [await newBerth(folder, 'one'), await newBerth(folder, 'two')];
    newGateway(folder);
    await one.link();
    expect((await one.configure([agent('a')])).status).toBe(200);
    expect((await two.chat(say('a', 'hi'))).said).toBe('You said: hi');
    expect((await one.chat(say('a', 'ho'))).said).toBe('You said: ho');
    // Each asks the model over its own socket.
    expect([one.modelRequests.length, two.modelRequests.length]).toEqual([1, 1]);
  });

  test('asks the model over another socket when the nearest takes no calls', async () => {
    const folder = newFolder();
    const [one, two] = [await newBerth(folder, 'one'), await newBerth(folder, 'two')];
    newGateway(folder);
    await one.configure([agent('a')]);
    await two.link();
    const session = one.session;
    rmSync(join(folder.dir, 'one.sock'));
    const answer = await one.chat(say('a', 'hi'));
    expect(answer.said).toBe('You said: hi');
    expect([one.modelRequests.length, two.modelRequests.length]).toEqual([0, 1]);
    expect(session?.destroyed).toBe(false);
  });

  test('is patient with refusals and heals', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    berth.refuse = 429;
    newGateway(folder);
    await until('some dials', () => berth.dials.length >= 3);
    const gaps = berth.dials.slice(1).map(({ at }, i) => at - (berth.dials[i]?.at ?? 0));
    expect(Math.min(...gaps)).toBeGreaterThan(35);
    berth.refuse = undefined;
    await berth.link();
  });

  test('takes up a new token', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    newGateway(folder);
    await berth.configure([agent('a')]);
    folder.writeToken('another-token');
    // The link stands; only the next call shows that the old token is worth nothing.
    expect((await berth.chat(say('a', 'hi'))).said).toBe('You said: hi');
    const again = berth.nextLink();
    berth.session?.destroy();
    await again;
    expect(berth.dials.at(-1)?.headers.authorization).toBe('Bearer another-token');
  });

  test('survives whatever answers on a socket', async () => {
    const folder = newFolder();
    const garbage = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () =>
        socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\nnot http2 at all'),
      );
    });
    const silent = createServer(() => undefined);
    const nonsense = createServer((socket) => void socket.on('error', () => undefined).end('\0\0\0'));
    garbage.listen(join(folder.dir, 'garbage.sock'));
    silent.listen(join(folder.dir, 'silent.sock'));
    nonsense.listen(join(folder.dir, 'nonsense.sock'));
    for (const server of [garbage, silent, nonsense]) open.push({ close: async () => void server.close() });
    const berth = await newBerth(folder);
    const gateway = newGateway(folder);
    await berth.configure([agent('a')]);
    expect((await berth.chat(say('a', 'hi'))).said).toBe('You said: hi');
    expect(gateway.child.exitCode).toBeNull();
    await gateway.remove();
  });

  test('gets through a client that resets and floods', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    const gateway = newGateway(folder);
    await berth.configure([agent('a')]);
    const session = await berth.link();
    for (let i = 0; i < 300; i++) {
      const stream = session.request({ ':method': 'POST', ':path': '/v1/chat/completions' });
      stream.on('error', () => undefined);
      stream.write('{"mess');
      stream.close(8);
    }
    expect((await berth.chat(say('a', 'hi'))).said).toBe('You said: hi');
    expect(gateway.child.exitCode).toBeNull();
  });
});

describe('stopping', () => {
  test('finishes the turns in flight, takes no new ones, and exits 0', async () => {
    const folder = newFolder();
    const berth = await newBerth(folder);
    const gateway = newGateway(folder);
    await berth.configure([agent('a')]);
    let end!: () => void;
    berth.model = async (_call, response) => {
      begin(response);
      chunk(response, { content: 'almost ' });
      await new Promise<void>((resolve) => (end = resolve));
      chunk(response, { content: 'done' });
      finish(response);
    };
    const turn = berth.chat(say('a', 'x'));
    await until('the model is asked', () => berth.modelRequests.length === 1);
    const exit = gateway.stop();
    await until('it drains', async () => (await berth.request('GET', '/readyz')).json.failing?.includes('draining') === true);
    expect((await berth.request('POST', '/v1/chat/completions', say('a', 'y'))).status).toBe(503);
    end();
    expect(await turn).toMatchObject({ said: 'almost done', finish: 'stop', done: true });
    expect(await exit).toBe(0);
  });

  test('says so at once where the settings are wrong', async () => {
    const gateway = newGateway(newFolder(), { BERTH_SHELL: 'maybe' });
    await until('it ends', () => gateway.child.exitCode !== null);
    expect(gateway.child.exitCode).toBe(1);
    expect(gateway.output).toContain('BERTH_SHELL must be on or off');
  });
});
