import http, { type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { AppError } from '../lib/errors.js';
import { parseTarget, type Target } from './policy.js';

/** Headers that belong to one connection, and credentials of the proxy (RFC 9110, section 7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
]);

export interface ForwardTarget extends Target {
  /** Path and query. */
  path: string;
}

/** The target of an absolute-form request, whose Host header must name the same. */
export function parseAbsoluteForm(request: IncomingMessage): ForwardTarget {
  const match = /^http:\/\/([^/?#]+)([^#]*)/i.exec(request.url ?? '');
  if (!match) throw new AppError('invalid_request', 'only http:// can be forwarded; use CONNECT for the rest');
  const target = parseTarget(match[1] ?? '', 80);
  checkHostHeader(request, target);
  const rest = match[2] ?? '';
  return { ...target, path: rest.startsWith('/') ? rest : `/${rest}` };
}

/** Throws where the Host header names another host or port than `target`. */
export function checkHostHeader(request: IncomingMessage, target: Target): void {
  const named = parseTarget(request.headers.host ?? '', 80);
  if (named.host !== target.host || named.port !== target.port) {
    throw new AppError('forbidden', 'the Host header does not name the target');
  }
}

export interface ForwardOptions {
  idleMs: number;
  maxHeaderBytes: number;
}

/** Sends a request on over a connection of its own and the answer back. Throws until the answer's headers are on their way. */
export async function forwardRequest(
  request: IncomingMessage,
  response: ServerResponse,
  target: ForwardTarget,
  upstream: Socket,
  options: ForwardOptions,
): Promise<void> {
  upstream.setTimeout(options.idleMs, () => upstream.destroy(new Error('nothing moved for too long')));
  const onward = http.request({
    // No `agent`, not even false: any would make a connection of its own, to localhost.
    createConnection: () => upstream,
    host: upstream.remoteAddress,
    port: upstream.remotePort,
    setHost: false,
    method: request.method ?? 'GET',
    path: target.path,
    headers: requestHeaders(request, target),
    maxHeaderSize: options.maxHeaderBytes,
  });
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    onward.once('response', resolve);
    onward.on('error', reject);
    onward.once('close', () => reject(new Error('the connection was closed')));
    // Switching protocols was never asked for.
    onward.once('upgrade', (_response, socket) => socket.destroy());
  });
  const sent = pipeline(request, onward);
  // A server may answer before it has read all; a failed upload shows in the answer that does not come.
  sent.catch(() => {});
  try {
    const answer = await answered;
    response.sendDate = false;
    response.writeHead(answer.statusCode ?? 502, answerHeaders(answer));
    await pipeline(answer, response);
  } finally {
    upstream.destroy();
  }
}

function requestHeaders(request: IncomingMessage, target: Target): OutgoingHttpHeaders {
  const dropped = droppedBy(request);
  const headers: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(request.headers)) if (!dropped.has(name)) headers[name] = value;
  headers['host'] = target.port === 80 ? bracketed(target.host) : `${bracketed(target.host)}:${target.port}`;
  headers['connection'] = 'close';
  if (request.headers['transfer-encoding'] !== undefined) headers['transfer-encoding'] = 'chunked';
  return headers;
}

function answerHeaders(answer: IncomingMessage): string[] {
  const dropped = droppedBy(answer);
  const headers: string[] = [];
  for (let i = 0; i + 1 < answer.rawHeaders.length; i += 2) {
    const name = answer.rawHeaders[i] ?? '';
    if (!dropped.has(name.toLowerCase())) headers.push(name, answer.rawHeaders[i + 1] ?? '');
  }
  return headers;
}

function droppedBy(message: IncomingMessage): Set<string> {
  const named = (message.headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase());
  return new Set([...HOP_BY_HOP, ...named]);
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
