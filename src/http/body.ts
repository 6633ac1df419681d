import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import type { Context } from 'hono';
import { AppError, type FieldError } from '../lib/errors.js';
import { headerOf } from './authenticate.js';
import type { Env } from './request-state.js';

/** What a route takes as its body. */
export interface BodyRule {
  limitBytes: number | undefined;
  /** Media types the route declares; empty where it declares no body. */
  mediaTypes: readonly string[];
  /** Left unread, for the handler to take as it comes: no limit, and any media type. */
  streams: boolean;
}

/** Levels of arrays and objects in a JSON body; deeper ones would overflow the stack of whoever writes them out again. */
const MAX_DEPTH = 64;
const LONE_SURROGATE = /\p{Surrogate}/u;

/**
 * Reads the whole body, checks what can be checked before its schema is known, and leaves it where Hono's validators look for it.
 * Returns the bytes; undefined where the request has no body.
 */
export async function readBody(c: Context<Env>, rule: BodyRule, defaultLimitBytes: number): Promise<Buffer | undefined> {
  if (!hasBody(c)) return undefined;
  const mediaType = (headerOf(c, 'content-type') ?? '').split(';', 1)[0]!.trim().toLowerCase();
  if (rule.mediaTypes.length > 0 && !rule.mediaTypes.some((declared) => fits(mediaType, declared))) {
    throw new AppError('unsupported_media_type', `the body must be ${rule.mediaTypes.join(' or ')}`);
  }
  const bytes = await readBytes(c, rule.limitBytes ?? defaultLimitBytes);
  if (isJson(mediaType)) leaveJson(c, bytes);
  else leave(c, 'arrayBuffer', new Uint8Array(bytes).buffer);
  return bytes;
}

function leaveJson(c: Context<Env>, bytes: Buffer): void {
  if (!isUtf8(bytes)) throw malformed('is not valid UTF-8');
  if (depthOf(bytes) > MAX_DEPTH) throw malformed(`is nested deeper than ${MAX_DEPTH} levels`);
  const text = bytes.toString('utf8').replace(/^\ufeff/, '');
  c.env.berth.bodyText = text;
  leave(c, 'text', text);
  if (/__proto__|\\u(?:0000|005f|d[89a-f])/i.test(text)) refuseUnstorableText(text);
}

/** Hono looks here before it reads the request; its types say the value, its code keeps a promise of it. */
function leave(c: Context<Env>, as: 'text' | 'arrayBuffer', value: string | ArrayBuffer): void {
  Object.assign(c.req.bodyCache, { [as]: Promise.resolve(value) });
}

function hasBody(c: Context<Env>): boolean {
  const length = headerOf(c, 'content-length');
  if (length !== undefined) return length !== '0';
  if (c.env.incoming) return headerOf(c, 'transfer-encoding') !== undefined;
  return c.req.raw.body !== null;
}

async function readBytes(c: Context<Env>, limitBytes: number): Promise<Buffer> {
  if (Number(headerOf(c, 'content-length') ?? 0) > limitBytes) throw tooLarge(limitBytes);
  const { incoming } = c.env;
  if (!incoming) {
    const bytes = Buffer.from(await c.req.raw.arrayBuffer());
    if (bytes.length > limitBytes) throw tooLarge(limitBytes);
    return bytes;
  }
  const bytes = await collect(incoming, limitBytes);
  // node-server reads from here instead of the stream, which is spent.
  (incoming as IncomingMessage & { rawBody?: Buffer }).rawBody = bytes;
  return bytes;
}

function collect(incoming: IncomingMessage, limitBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const settle = (act: () => void) => {
      incoming.off('data', onData).off('end', onEnd).off('error', onBreak).off('close', onBreak);
      act();
    };
    const onData = (chunk: Buffer) => {
      size += chunk.length;
      chunks.push(chunk);
      // Not destroyed: the answer has to reach the client first; node-server drains or cuts the rest.
      if (size > limitBytes) settle(() => (incoming.pause(), reject(tooLarge(limitBytes))));
    };
    const onEnd = () => settle(() => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size)));
    const onBreak = () => settle(() => reject(new AppError('invalid_request', 'the connection broke off within the body')));
    incoming.on('data', onData).on('end', onEnd).on('error', onBreak).on('close', onBreak);
  });
}

function isJson(mediaType: string): boolean {
  return mediaType === 'application/json' || (mediaType.startsWith('application/') && mediaType.endsWith('+json'));
}

function fits(mediaType: string, declared: string): boolean {
  if (declared === '*/*') return true;
  if (declared.endsWith('/*')) return mediaType.startsWith(declared.slice(0, -1));
  return mediaType === declared || (declared === 'application/json' && isJson(mediaType));
}

/** Brackets open at once; those within strings do not count. */
function depthOf(bytes: Buffer): number {
  let depth = 0;
  let deepest = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === 34) i = endOfString(bytes, i);
    else if (byte === 91 || byte === 123) deepest = Math.max(deepest, ++depth);
    else if (byte === 93 || byte === 125) depth -= 1;
  }
  return deepest;
}

function endOfString(bytes: Buffer, start: number): number {
  for (let end = bytes.indexOf(34, start + 1); end !== -1; end = bytes.indexOf(34, end + 1)) {
    let slashes = 0;
    while (bytes[end - 1 - slashes] === 92) slashes += 1;
    if (slashes % 2 === 0) return end;
  }
  return bytes.length;
}

/**
 * NUL and lone surrogates have no place in a Postgres text or jsonb: refused here, by field, rather than failing there. A field called
 * `__proto__` would be lost on its way through the validators, where names are the caller's: a wish unheard.
 */
function refuseUnstorableText(text: string): void {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return; // the validator parses it again and says where it is wrong
  }
  const fields: FieldError[] = [];
  visit(value, '', fields);
  if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields: fields.slice(0, 20) });
}

function visit(value: unknown, path: string, found: FieldError[]): void {
  if (typeof value === 'string') {
    if (value.includes('\0')) found.push({ path: path || 'body', message: 'must not contain NUL' });
    else if (LONE_SURROGATE.test(value)) found.push({ path: path || 'body', message: 'must be well-formed Unicode' });
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, inner] of Object.entries(value)) {
      if (name.includes('\0') || LONE_SURROGATE.test(name))
        found.push({ path: path || 'body', message: 'has a field name that is not text' });
      else if (name === '__proto__') found.push({ path: path ? `${path}.${name}` : name, message: 'is not a known field' });
      else visit(inner, path === '' ? name.slice(0, 64) : `${path}.${name.slice(0, 64)}`, found);
    }
  }
}

function malformed(message: string): AppError {
  return new AppError('invalid_request', 'malformed request body', { fields: [{ path: 'body', message }] });
}

function tooLarge(limitBytes: number): AppError {
  return new AppError('payload_too_large', `the body is larger than ${limitBytes} bytes`);
}
