import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { wishIn, wordNow } from '../support/canned.js';

/**
 * A model API that answers at once with what was asked for. Listens on a port, which it prints, and on the unix sockets given as
 * arguments, where a gateway takes it for Berth.
 */
async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const pieces: Buffer[] = [];
  for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece);
  const { words, gapMs } = wishIn(Buffer.concat(pieces).toString('latin1'));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  if (gapMs === 0) {
    response.end(Array.from({ length: words }, () => wordEvent()).join('') + tail(words));
    return;
  }
  let said = 0;
  const sayOne = () => {
    response.write(wordEvent());
    said += 1;
    if (said < words) return;
    clearInterval(timer);
    response.end(tail(words));
  };
  const timer = setInterval(sayOne, gapMs);
  response.on('close', () => clearInterval(timer));
  sayOne();
}

const HEAD = '"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench"';

function wordEvent(): string {
  return `data: {${HEAD},"choices":[{"index":0,"delta":{"content":"${wordNow()}"},"finish_reason":null}],"usage":null}\n\n`;
}

function tail(words: number): string {
  const usage = `{"prompt_tokens":10,"completion_tokens":${words},"total_tokens":${10 + words}}`;
  const last = `data: {${HEAD},"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n`;
  return `${last}data: {${HEAD},"choices":[],"usage":${usage}}\n\ndata: [DONE]\n\n`;
}

function listening() {
  const server = createServer((request, response) => void answer(request, response));
  server.keepAliveTimeout = 60_000;
  // A gateway dials its link here; it is taken and nothing is asked over it.
  server.on('upgrade', (_request, socket) => {
    socket.on('error', () => socket.destroy());
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\n');
    socket.resume();
  });
  return server;
}

for (const path of process.argv.slice(2)) await new Promise<void>((resolve) => listening().listen(path, resolve));
const server = listening().listen(0, '127.0.0.1', () => {
  process.stdout.write(`${JSON.stringify({ port: (server.address() as AddressInfo).port })}\n`);
});
