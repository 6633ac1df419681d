// A registry on this namespace's loopback, chosen by the operator, that sends its caller wherever it is told. argv: networks to deny. Asked by
// messages, which name where to begin and where to be sent; or where to post a webhook to.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Exchange } from '../../src/clawhub/exchange.js';
import { AppError } from '../../src/lib/errors.js';
import { Outbound } from '../../src/link/outbound.js';

const server = createServer((request, response) => {
  const to = new URL(request.url ?? '/', 'http://x').searchParams.get('to');
  if (to === null) response.end('home');
  else response.writeHead(302, { Location: to }).end();
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const home = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
// A service of the host itself, on every address that it answers for.
await new Promise<void>((resolve) => createServer((_, response) => response.end('inside')).listen(80, '::', () => resolve()));

const outbound = new Outbound({ deny: process.argv.slice(2), limits: { connectMs: 1_500 } });
const tell = (error: unknown) =>
  process.send?.(error instanceof AppError ? `${error.code} ${error.message}` : `thrown ${String(error)}`);

process.on('message', ({ base = home, to, post }: { base?: string; to: string; post?: boolean }) => {
  if (post) {
    outbound.post(new URL(to), {}, '{}').then(({ status, text }) => process.send?.(`${status} ${text.slice(0, 200)}`), tell);
    return;
  }
  const exchange = new Exchange(new URL(base), { limits: { connectMs: 1_500 }, deny: process.argv.slice(2) });
  const url = new URL(base === home ? `${home}/?to=${encodeURIComponent(to)}` : to);
  exchange
    .ask({ method: 'GET', url, limitBytes: 100_000 })
    .then(({ status, bytes }) => process.send?.(`${status} ${bytes.toString('utf8').slice(0, 200)}`), tell);
});
process.send?.('ready');
