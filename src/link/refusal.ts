import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Why a call is not let in. */
export interface Refusal {
  status: number;
  message: string;
  retryAfterS?: number;
}

export const NO_EGRESS: Refusal = { status: 403, message: 'this instance has no way out to the internet' };

/** What is wrong with a request to become a link, if anything. */
export function upgradeRefusal(request: IncomingMessage): Refusal | undefined {
  const isLink = request.url === '/link' && request.headers.upgrade?.toLowerCase() === 'berth-link';
  if (!isLink || request.method !== 'GET') return { status: 404, message: 'only GET /link can be upgraded, to berth-link' };
  if (request.headers['x-berth-protocol'] !== '1') return { status: 400, message: 'X-Berth-Protocol must be 1' };
  return undefined;
}

/** Answers a request that the HTTP server still holds, in the shape that OpenAI clients read. */
export function answerPlain(response: ServerResponse, refusal: Refusal): void {
  const body = JSON.stringify({
    error: { message: refusal.message, type: REFUSAL_TYPES[refusal.status] ?? 'invalid_request_error' },
  });
  // Closing spares reading a body that nobody wants.
  if (refusal.retryAfterS !== undefined) response.setHeader('retry-after', refusal.retryAfterS);
  response.writeHead(refusal.status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
  });
  response.end(body);
}

const REFUSAL_TYPES: Record<number, string> = {
  401: 'authentication_error',
  403: 'permission_error',
  407: 'authentication_error',
  429: 'rate_limit_error',
};

/** Answers on a connection that the HTTP server has given away, and closes it. */
export function answerRaw(socket: Socket, status: number, body: string, retryAfterS?: number): void {
  const retry = retryAfterS ? `Retry-After: ${retryAfterS}\r\n` : '';
  socket.write(
    `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n${retry}Connection: close\r\n\r\n${body}`,
  );
  socket.destroySoon();
}
