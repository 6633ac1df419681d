import type { IncomingMessage } from 'node:http';
import { RequestError } from './openai-error.js';

/**
 * Beyond the limit a body is still taken off the wire up to this many times it, so that the sender gets to read why it
 * failed.
 */
const DISCARD_FACTOR = 4;

export interface BodyLimits {
  bodyBytes: number;
  bodyTimeoutMs: number;
}

/** Asked before each piece of a body is kept: throws where the instance, or Berth as a whole, holds too much already. */
export type Hold = (bytes: number) => void;

/** The request's body. Throws `RequestError` 413 or 408, what `hold` throws, or the signal's reason. */
export function readBody(request: IncomingMessage, limits: BodyLimits, hold: Hold, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let pieces: Buffer[] = [];
    let length = 0;
    let refusal: unknown;
    const refuse = (error: unknown) => {
      refusal ??= error;
      pieces = [];
      if (length > DISCARD_FACTOR * limits.bodyBytes) finish();
    };
    const timer = setTimeout(() => {
      refusal ??= new RequestError(408, `The body did not come within ${limits.bodyTimeoutMs} ms`, { code: 'timeout' });
      finish();
    }, limits.bodyTimeoutMs);
    const finish = () => {
      clearTimeout(timer);
      request.off('data', onData).off('end', finish).off('close', onClose);
      signal.removeEventListener('abort', onAbort);
      if (refusal === undefined) resolve(Buffer.concat(pieces));
      else reject(refusal instanceof Error ? refusal : new Error(String(refusal)));
    };
    const onClose = () => {
      refusal ??= new RequestError(400, 'The connection closed in the midst of the body', { code: 'aborted' });
      finish();
    };
    const onAbort = () => {
      refusal = signal.reason;
      finish();
    };
    const onData = (piece: Buffer) => {
      length += piece.length;
      if (length > limits.bodyBytes) return refuse(tooLarge(limits));
      if (refusal !== undefined) return;
      try {
        hold(piece.length);
        pieces.push(piece);
      } catch (error) {
        refuse(error);
      }
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort);
    request.on('data', onData).on('end', finish).on('close', onClose);
    request.on('error', () => undefined); // 'close' follows, and says it
  });
}

function tooLarge(limits: BodyLimits): RequestError {
  return new RequestError(413, `The body is larger than ${limits.bodyBytes} bytes`, { code: 'request_too_large' });
}
