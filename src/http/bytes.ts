import type { ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type { Context } from 'hono';
import { AppError } from '../lib/errors.js';
import { publicError } from './errors.js';
import { PACE } from './pace.js';
import type { Env } from './request-state.js';
import { alreadySent } from './sse.js';
import { countPassed } from './streamed-garbage.js';

/** An answer whose body is passed on as it comes. */
export interface BytesAnswer {
  status: number;
  headers: Record<string, string>;
  /** Undefined: the answer has no body, as for HEAD and 304. */
  body: Readable | undefined;
  /** How long the body is said to be. One that turns out to be of another length ends as a broken connection. */
  lengthBytes: number | undefined;
}

/**
 * Answers with bytes, past Hono's and node-server's web streams, and no faster than the client takes them. A body that fails in its midst
 * ends the connection, never the answer: no client may take a part for the whole. A client that goes destroys the body.
 */
export async function streamBytes(c: Context<Env>, answer: BytesAnswer): Promise<Response> {
  const { outgoing, berth: state } = c.env;
  if (!outgoing) throw new AppError('internal', 'a stream needs a connection');
  const { status, body, lengthBytes } = answer;
  const headers = lengthBytes === undefined ? answer.headers : { ...answer.headers, 'Content-Length': String(lengthBytes) };
  const streamed = { status, headers, broken: false };
  state.streamed = streamed;
  if (outgoing.destroyed) {
    body?.destroy();
    streamed.broken = true;
    return alreadySent();
  }
  outgoing.writeHead(status, headers);
  if (body === undefined || c.req.method === 'HEAD') {
    body?.destroy();
    outgoing.end();
    return alreadySent();
  }
  try {
    streamed.broken = (await pump(body, outgoing, lengthBytes, state.services.pace?.stalledMs ?? PACE.stalledMs)) === 'gone';
  } catch (thrown) {
    state.error = publicError(thrown);
    outgoing.destroy();
  }
  return alreadySent();
}

/** Resolves when the client has all of it, or has gone; rejects where the body breaks. */
function pump(
  body: Readable,
  outgoing: ServerResponse,
  lengthBytes: number | undefined,
  stalledMs: number,
): Promise<'sent' | 'gone'> {
  return new Promise((resolve, reject) => {
    let left = lengthBytes ?? Infinity;
    const stalled = setTimeout(() => {
      if (body.isPaused()) outgoing.destroy();
      else settle(() => reject(new AppError('timeout', `the agent sent nothing for ${stalledMs / 1000} s`)));
    }, stalledMs);
    const settle = (act: () => void) => {
      clearTimeout(stalled);
      body.destroy();
      act();
    };
    const wrongLength = () => new AppError('upstream_error', 'the agent sent another number of bytes than it had said');
    body.on('data', (chunk: Buffer) => {
      left -= chunk.length;
      if (left < 0) return settle(() => reject(wrongLength()));
      countPassed(chunk.length);
      stalled.refresh();
      if (!outgoing.write(chunk)) body.pause();
    });
    outgoing.on('drain', () => {
      stalled.refresh();
      body.resume();
    });
    body.once('end', () => {
      if (left > 0 && left !== Infinity) return settle(() => reject(wrongLength()));
      outgoing.end();
    });
    body.once('error', (error) => settle(() => reject(error)));
    // Comes after `finish` too, and when the connection is lost.
    outgoing.once('close', () => settle(() => resolve(outgoing.writableFinished ? 'sent' : 'gone')));
  });
}
