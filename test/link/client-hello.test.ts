import { randomBytes } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import { expect, test } from 'vitest';
import { readClientHello } from '../../src/link/client-hello.js';

/** What a real TLS client says first. */
function realHello(servername: string): Promise<Buffer> {
  return new Promise((resolve) => {
    const server = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', (chunk) => {
        socket.destroy();
        server.close();
        resolve(chunk);
      });
    });
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as net.AddressInfo;
      tls.connect({ host: '127.0.0.1', port, servername, rejectUnauthorized: false }).on('error', () => {});
    });
  });
}

test('finds the name in a real hello, however it is cut into pieces', async () => {
  const hello = await realHello('Site.Example');
  expect(readClientHello(hello)).toEqual({ state: 'done', hello: { serverName: 'site.example', isEncrypted: false } });
  for (let length = 0; length < hello.length; length++)
    expect(readClientHello(hello.subarray(0, length))).toEqual({ state: 'more' });
  const message = hello.subarray(5);
  const records = [];
  for (let at = 0; at < message.length; at += 50) {
    const part = message.subarray(at, at + 50);
    records.push(Buffer.from([22, 3, 1, 0, part.length]), part);
  }
  expect(readClientHello(Buffer.concat(records))).toMatchObject({ state: 'done', hello: { serverName: 'site.example' } });
});

test('a hello without a name says so', async () => {
  expect(readClientHello(await realHello(''))).toMatchObject({ state: 'done', hello: { serverName: undefined } });
});

test.each([
  ['plain HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ['another record type', Buffer.from([23, 3, 3, 0, 1, 0])],
  ['another version', Buffer.from([22, 2, 0, 0, 1, 0])],
  ['an empty record', Buffer.from([22, 3, 1, 0, 0])],
  ['a record beyond the size', Buffer.from([22, 3, 1, 0x50, 0])],
  ['another handshake message', Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0])],
  ['a message beyond the cap', Buffer.from([22, 3, 1, 0, 4, 1, 1, 0, 0])],
  ['a message that lies about its lengths', Buffer.from([22, 3, 1, 0, 8, 1, 0, 0, 4, 3, 3, 0, 0])],
])('%s is no hello', (_what, bytes) => {
  expect(readClientHello(bytes)).toEqual({ state: 'not-tls' });
});

test('no bytes make it throw', async () => {
  const hello = await realHello('site.example');
  for (let round = 0; round < 20_000; round++) {
    const mangled = Buffer.from(hello);
    for (const at of randomBytes(3)) mangled[(at * 3) % mangled.length] = randomBytes(1)[0] ?? 0;
    readClientHello(mangled);
    readClientHello(randomBytes(40));
  }
});
