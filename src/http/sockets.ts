import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Context } from 'hono';
import { type WebSocket, WebSocketServer } from 'ws';
import { AppError } from '../lib/errors.js';
import { ClientSocket, hangUp } from './client-socket.js';
import type { Env } from './request-state.js';

/** The connection of a request that asks for a WebSocket, until its route takes it. */
export interface SocketOffer {
  accept?: (socket: ClientSocket) => void;
}

/** What a client may send in one message. Nobody has much to say here. */
const MESSAGE_BYTES = 16 * 1024;

type Fetch = (request: Request, connection: object) => Promise<Response>;

/** For routes: answers with a WebSocket that `use` gets once it is open; `upgrade_required` where the request asks for none. */
export function acceptSocket(c: Context<Env>, use: (socket: ClientSocket) => void): Response {
  const { socketOffer: offer, berth: state } = c.env;
  if (!offer) {
    const headers = { Upgrade: 'websocket', Connection: 'Upgrade' };
    throw new AppError('upgrade_required', 'this is a WebSocket: ask with Upgrade: websocket', { headers });
  }
  offer.accept = use;
  state.streamed = { status: 101, headers: {}, broken: false };
  return new Response(null, { status: 204 });
}

/**
 * Lets a server take WebSockets. A request for one goes through the edge as any other, so that keys, limits, errors and the log are the same;
 * node-server's own upgrade would drop the body of a refusal. Returns what closes all that are open: the server does not know them any more.
 */
export function serveSockets(server: Server, fetch: Fetch): () => void {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: MESSAGE_BYTES, perMessageDeflate: false });
  server.on('upgrade', (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Stays for good: a client that goes away ends nothing but its own connection.
    socket.on('error', () => socket.destroy());
    if (incoming.headers.upgrade?.toLowerCase() !== 'websocket') return serveWithout(server, incoming, socket, head);
    void answer(sockets, fetch, incoming, socket, head);
  });
  return () => {
    for (const open of sockets.clients) hangUp(open);
  };
}

async function answer(
  sockets: WebSocketServer,
  fetch: Fetch,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const offer: SocketOffer = {};
  const response = await fetch(requestOf(incoming), { incoming, socketOffer: offer });
  const { accept } = offer;
  if (socket.destroyed) return;
  if (!accept) return refuse(socket, response);
  sockets.handleUpgrade(incoming, socket, head, (opened: WebSocket) => accept(new ClientSocket(opened)));
}

/** The edge reads path and headers from Node's message; this is for what reads the request itself. */
function requestOf(incoming: IncomingMessage): Request {
  const headers = Object.entries(incoming.headers).flatMap(([name, value]) =>
    typeof value === 'string' ? [[name, value] as [string, string]] : [],
  );
  const target = incoming.url ?? '/';
  return new Request(`http://localhost${target.startsWith('/') ? target : '/'}`, { method: 'GET', headers });
}

async function refuse(socket: Duplex, response: Response): Promise<void> {
  const body = Buffer.from(await response.arrayBuffer());
  const lines = [...response.headers]
    .filter(([name]) => !['connection', 'content-length'].includes(name))
    .map(([name, value]) => `${name}: ${value}`);
  const head = [
    `HTTP/1.1 ${response.status} ${STATUS_CODES[response.status] ?? ''}`,
    ...lines,
    `Content-Length: ${body.length}`,
    'Connection: close',
  ];
  socket.end(Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), body]));
}

/** Headers that ask for another protocol. */
const ASKING = new Set(['upgrade', 'http2-settings']);

/**
 * Serves a request that offers another protocol (clients of HTTP/2 do, with any method) as if it did not. Node gives the server such
 * connections as soon as somebody listens for upgrades; so the request is put back, without its offer.
 */
function serveWithout(server: Server, incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
  const { rawHeaders, method = 'GET', url = '/', httpVersion } = incoming;
  const lines = [`${method} ${url} HTTP/${httpVersion}`];
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const [name = '', value = ''] = [rawHeaders[at], rawHeaders[at + 1]];
    if (ASKING.has(name.toLowerCase())) continue;
    lines.push(`${name}: ${name.toLowerCase() === 'connection' ? withoutAsking(value) : value}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]));
  server.emit('connection', socket);
}

function withoutAsking(connection: string): string {
  const words = connection.split(',').map((word) => word.trim());
  return words.filter((word) => !ASKING.has(word.toLowerCase())).join(', ') || 'keep-alive';
}
