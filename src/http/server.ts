import { type OutgoingMessage, type ServerOptions, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { AppError } from '../lib/errors.js';
import { newId } from '../lib/ids.js';
import { errorAnswer } from './errors.js';
import { isUnhurried } from './request-stream.js';

/** How long a client may take to say what it wants, and how much header it may send. Given to `createServer`. */
export const SERVER_OPTIONS: ServerOptions = {
  headersTimeout: 15_000,
  requestTimeout: 120_000,
  keepAliveTimeout: 65_000,
  connectionsCheckingInterval: 5_000,
  maxHeaderSize: 16_384,
  // The edge says it in its own words.
  requireHostHeader: false,
};

const STATUS_OF: Record<string, number> = {
  HPE_HEADER_OVERFLOW: 431,
  ERR_HTTP_REQUEST_TIMEOUT: 408,
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 413,
};

/** The server's `clientError`: what is not HTTP, comes too slowly or has too much header gets the usual error answer, then the door. */
export function refuseBadHttp(error: Error & { code?: string }, socket: Duplex): void {
  // Said once for a request that takes long; one that streams its body is held to a pace instead, and goes on.
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && isUnhurried(socket)) return;
  const { _httpMessage: message } = socket as Socket & { _httpMessage?: OutgoingMessage };
  if (error.code === 'ECONNRESET' || !socket.writable || message?.headersSent) {
    socket.destroy();
    return;
  }
  const status = STATUS_OF[error.code ?? ''] ?? 400;
  const text = STATUS_CODES[status] ?? 'Bad Request';
  const id = newId('req');
  const body = JSON.stringify(errorAnswer(new AppError('invalid_request', text.toLowerCase()), id));
  const head = [
    `HTTP/1.1 ${status} ${text}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Request-Id: ${id}`,
    'Connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}
