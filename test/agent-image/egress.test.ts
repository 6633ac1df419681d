import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, request as httpRequest, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

let fixture: Fixture;
let certificates: string;
let secure: Server;
let plain: Server;
let proxyPort: number;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
let asked: string[];
let allowed: (authority: string) => boolean;

/** The stand-in's egress proxy: every name leads to the test's own servers, and everything it is asked is noted. */
beforeAll(async () => {
  certificates = mkdtempSync(join(tmpdir(), 'bc-'));
  const [key, cert] = [join(certificates, 'key.pem'), join(certificates, 'cert.pem')];
  const subject = ['-subj', '/CN=site.test', '-addext', 'subjectAltName=DNS:site.test,DNS:other.test'];
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      key,
      '-out',
      cert,
      ...subject,
    ],
    { stdio: 'ignore' },
  );
  secure = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) =>
    answer(request, response),
  );
  plain = createServer((request, response) => answer(request, response));
  for (const server of [secure, plain]) await once(server.listen(0, '127.0.0.1'), 'listening');
  const port = await freePort();
  fixture = await startFixture({ BERTH_PROXY_PORT: String(port), NODE_EXTRA_CA_CERTS: cert });
  proxyPort = port;
  fixture.berth.onConnect = (request, socket, head) => {
    asked.push(`CONNECT ${request.url} ${request.headers['proxy-authorization']}`);
    if (!allowed(String(request.url)))
      return void socket.end('HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nnot on the list\n');
    const server = request.url?.endsWith(':443') ? secure : plain;
    const upstream = connect((server.address() as AddressInfo).port, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      upstream.write(head);
      upstream.pipe(socket).pipe(upstream);
    });
    for (const end of [socket, upstream]) end.on('error', () => (socket.destroy(), upstream.destroy()));
  };
  fixture.berth.onProxied = (request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers['proxy-authorization']}`);
    if (!allowed(new URL(String(request.url)).host))
      return void response.writeHead(403, { 'content-type': 'text/plain' }).end('not on the list\n');
    answer(request, response);
  };
  await fixture.berth.configure([agent('a')]);
});

beforeEach(() => {
  asked = [];
  allowed = () => true;
  answer = (request, response) =>
    response
      .writeHead(200, { 'content-type': 'text/plain' })
      .end(`${request.method} ${new URL(String(request.url), 'http://x').pathname}`);
});

afterAll(async () => {
  await fixture.close();
  secure.close();
  plain.close();
  rmSync(certificates, { recursive: true, force: true });
});

async function tool(name: string, args: object): Promise<{ ok: boolean; text: string }> {
  const before = fixture.berth.modelRequests.length;
  const chat = await fixture.berth.chat(say('a', `/tool ${name} ${JSON.stringify(args)}`), { 'x-berth-events': '1' });
  const messages = fixture.berth.modelRequests[before + 1]?.body.messages;
  return { ok: chat.events.find(({ event }) => event === 'tool_result')?.data.ok, text: String(messages?.at(-1)?.content) };
}

describe('fetch_url', () => {
  test('reaches https through a tunnel and http in absolute form, with the token', async () => {
    expect(await tool('fetch_url', { url: 'https://site.test/a' })).toEqual({
      ok: true,
      text: 'HTTP 200 OK\nurl: https://site.test/a\ncontent-type: text/plain\n\nGET /a',
    });
    expect((await tool('fetch_url', { url: 'http://site.test/b', method: 'POST', body: 'x' })).text).toContain('POST /b');
    const token = `Bearer ${fixture.folder.token}`;
    expect(asked).toEqual([`CONNECT site.test:443 ${token}`, `POST http://site.test/b ${token}`]);
  });

  test('tells the model when the policy refuses', async () => {
    allowed = () => false;
    expect(await tool('fetch_url', { url: 'https://site.test/' })).toEqual({
      ok: false,
      text: 'Error: the egress proxy refused (403): not on the list',
    });
    expect(await tool('fetch_url', { url: 'http://site.test/' })).toMatchObject({
      ok: false,
      text: expect.stringContaining('not on the list'),
    });
  });

  test('follows redirects, each asked of the proxy, and leaves credentials behind', async () => {
    const seen: (string | undefined)[] = [];
    answer = (request, response) => {
      seen.push(request.headers.authorization);
      if (request.headers.host === 'site.test')
        return void response.writeHead(302, { location: 'https://other.test/there' }).end();
      response.writeHead(200, { 'content-type': 'text/plain' }).end('arrived');
    };
    const { text } = await tool('fetch_url', { url: 'https://site.test/', headers: { Authorization: 'Bearer mine' } });
    expect(text).toContain('url: https://other.test/there');
    expect(seen).toEqual(['Bearer mine', undefined]);
    expect(asked.map((line) => line.split(' ')[1])).toEqual(['site.test:443', 'other.test:443']);
    allowed = (authority) => authority !== 'other.test:443';
    expect((await tool('fetch_url', { url: 'https://site.test/' })).text).toContain('refused (403)');
  });

  test('follows five redirects and no more', async () => {
    answer = (_request, response) => response.writeHead(302, { location: '/again' }).end();
    expect((await tool('fetch_url', { url: 'https://site.test/' })).text).toBe('Error: more than 5 redirects');
    expect(asked).toHaveLength(6);
  });

  test.each(['ftp://x.test/', 'file:///etc/passwd', 'site.test', 'https://u:p@site.test/', ''])('refuses %j', async (url) => {
    expect(await tool('fetch_url', { url })).toMatchObject({ ok: false, text: expect.stringMatching(/^Error: url: /) });
    expect(asked).toEqual([]);
  });

  test('takes at most a megabyte, makes text of HTML and shows no bytes', async () => {
    answer = (_request, response) =>
      void response.writeHead(200, { 'content-type': 'text/plain' }).end(Buffer.alloc(3 * 1024 * 1024, 'x'));
    const big = await tool('fetch_url', { url: 'https://site.test/' });
    expect(big.text.length).toBeLessThan(31_000);
    expect(big.text).toContain('only the first 1 MB');
    answer = (_request, response) =>
      void response
        .writeHead(200, { 'content-type': 'text/html' })
        .end('<html><script>bad()</script><h1>A &amp; B</h1><p>to <a href="https://x.test/y">there</a></html>');
    expect((await tool('fetch_url', { url: 'https://site.test/' })).text).toMatch(
      /\n\nA & B\n+to there \(https:\/\/x\.test\/y\)$/,
    );
    answer = (_request, response) => void response.writeHead(200, { 'content-type': 'image/png' }).end(Buffer.alloc(10));
    expect((await tool('fetch_url', { url: 'https://site.test/' })).text).toContain('(10 bytes that are not text)');
  });

  test('does not trust a certificate of another name', async () => {
    expect(await tool('fetch_url', { url: 'https://wrong.test/' })).toMatchObject({
      ok: false,
      text: expect.stringContaining('ERR_TLS_CERT_ALTNAME_INVALID'),
    });
  });

  test('cannot set the proxy credentials or break the head', async () => {
    answer = (request, response) =>
      void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(request.headers));
    const { text } = await tool('fetch_url', {
      url: 'https://site.test/',
      headers: { Host: 'evil', 'Proxy-Authorization': 'x', 'X-Ok': '1' },
    });
    expect(text).toContain('"host":"site.test"');
    expect(text).toContain('"x-ok":"1"');
    expect(text).not.toContain('proxy-authorization');
    expect((await tool('fetch_url', { url: 'https://site.test/', headers: { 'x-a': 'b\r\nx-c: d' } })).ok).toBe(false);
  });

  test('ends with its turn', async () => {
    let begun = false;
    let closed = false;
    answer = (_request, response) => {
      begun = true;
      response.on('close', () => (closed = true));
    };
    const stream = await fixture.berth.open(
      'POST',
      '/v1/chat/completions',
      say('a', '/tool fetch_url {"url":"https://site.test/"}', { stream: true }),
    );
    await until('it is asked', () => begun);
    stream.close(8);
    await until('it has ended', () => closed);
  });
});

describe('the forward proxy', () => {
  test('gives programs in the shell a way out, without credentials of their own', async () => {
    expect(await tool('shell', { command: 'curl -sS http://site.test/from-shell' })).toEqual({
      ok: true,
      text: 'GET /from-shell',
    });
    expect(
      (await tool('shell', { command: `curl -sS --cacert ${join(certificates, 'cert.pem')} https://site.test/tls` })).text,
    ).toBe('GET /tls');
    const token = `Bearer ${fixture.folder.token}`;
    expect(asked).toEqual([`GET http://site.test/from-shell ${token}`, `CONNECT site.test:443 ${token}`]);
    expect((await tool('shell', { command: 'echo $HTTP_PROXY $https_proxy $NODE_USE_ENV_PROXY' })).text).toBe(
      `http://127.0.0.1:${proxyPort} http://127.0.0.1:${proxyPort} 1`,
    );
  });

  test('passes refusals on', async () => {
    allowed = () => false;
    expect((await tool('shell', { command: 'curl -sS http://site.test/' })).text).toBe('not on the list');
    expect((await tool('shell', { command: 'curl -sS https://site.test/' })).text).toContain('403');
  });

  test('carries bodies both ways and drops what concerns one connection only', async () => {
    answer = (request, response) => {
      const pieces: Buffer[] = [];
      request.on('data', (piece: Buffer) => pieces.push(piece));
      request.on('end', () =>
        response.writeHead(201, { 'x-length': String(Buffer.concat(pieces).length) }).end(JSON.stringify(request.headers)),
      );
    };
    const { status, headers, text } = await viaProxy('http://site.test/up', Buffer.alloc(300_000, 'b'), {
      'proxy-authorization': 'Basic eA==',
      te: 'trailers',
    });
    expect([status, headers['x-length']]).toEqual([201, '300000']);
    expect(JSON.parse(text)).toMatchObject({ 'proxy-authorization': `Bearer ${fixture.folder.token}` });
    expect(JSON.parse(text)).not.toHaveProperty('te');
  });

  test('brings every answer to a body, also when it comes before the body has been ended', async () => {
    answer = (request, response) => {
      let bytes = 0;
      request.on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes === 100_000) response.end('all of it');
      });
    };
    for (let i = 0; i < 100; i++) expect((await viaProxy('http://site.test/', Buffer.alloc(100_000))).text).toBe('all of it');
  });

  test('is a proxy and nothing else', async () => {
    expect((await viaProxy('/v1/models')).status).toBe(400);
    expect((await viaProxy('/berth/v1/config')).status).toBe(400);
  });

  test('survives clients that send garbage or go away', async () => {
    for (const bytes of [
      '\0\0\0',
      'CONNECT \r\n\r\n',
      'GET http://site.test/ HTTP/1.1\r\n\r\n',
      'CONNECT site.test:443 HTTP/1.1\r\nHost: x\r\n\r\ngarbage',
    ]) {
      const socket = connect(proxyPort, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write(bytes);
      await once(socket, 'connect');
      socket.destroy();
    }
    expect((await viaProxy('http://site.test/ok')).text).toBe('GET /ok');
  });

  test('lets later tunnels wait for a place instead of taking more connections than there are', async () => {
    const sockets = Array.from({ length: 20 }, () => {
      const socket = connect(proxyPort, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write('CONNECT site.test:80 HTTP/1.1\r\nHost: site.test\r\n\r\n');
      return socket;
    });
    const tunnels = () => asked.filter((line) => line.startsWith('CONNECT site.test:80 ')).length;
    await until('all places are taken', () => tunnels() === 16);
    sockets[0]?.destroy();
    await until('the next one gets the place', () => tunnels() === 17);
    for (const socket of sockets) socket.destroy();
    expect((await viaProxy('http://site.test/ok')).text).toBe('GET /ok');
  });
});

function viaProxy(
  path: string,
  body?: Buffer,
  headers: Record<string, string> = {},
): Promise<{ status: number; headers: IncomingMessage['headers']; text: string }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      { port: proxyPort, host: '127.0.0.1', method: body ? 'POST' : 'GET', path, headers },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
