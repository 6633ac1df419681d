import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import type { Duplex } from 'node:stream';
import { EgressRefused, type Egress } from '../egress.js';
import { MOST_RESULT_CHARS, ToolError, middleOut, optionalString, stringArgument, type Tool, type ToolResult } from './tool.js';
import { htmlToText } from './html.js';

const TIMEOUT_MS = 30_000;
const MOST_BYTES = 1024 * 1024;
const MOST_REDIRECTS = 5;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'];
/** Set by us or meaningless through a proxy. */
const RESERVED_HEADERS = new Set([
  'host',
  'connection',
  'content-length',
  'transfer-encoding',
  'upgrade',
  'te',
  'trailer',
  'expect',
  'accept-encoding',
]);
const TEXT_TYPE = /^(?:text\/|application\/(?:[\w.+-]*\+)?(?:json|xml|javascript|x-www-form-urlencoded|yaml|x-yaml|x-ndjson))/i;

interface Ask {
  url: URL;
  method: string;
  headers: OutgoingHttpHeaders;
  body: string;
}

/** Fetches URLs through the egress proxy, which decides what may be reached. Each redirect is asked of it anew. */
export function fetchTool(egress: Egress): Tool {
  return {
    name: 'fetch_url',
    description:
      'Fetch an http or https URL, as far as the network policy allows. HTML comes as plain text. At most 1 MB and 30 seconds.',
    parameters: {
      type: 'object',
      properties: {
        url: { type: 'string' },
        method: { type: 'string', enum: METHODS },
        headers: { type: 'object', additionalProperties: { type: 'string' } },
        body: { type: 'string' },
      },
      required: ['url'],
    },
    async run(args, context) {
      const signal = AbortSignal.any([context.signal, AbortSignal.timeout(TIMEOUT_MS)]);
      try {
        return await follow(egress, readAsk(args), signal);
      } catch (error) {
        throw context.signal.aborted ? context.signal.reason : inWords(error, signal);
      }
    },
  };
}

function readAsk(args: Record<string, unknown>): Ask {
  const method = optionalString(args, 'method', 'GET').toUpperCase();
  if (!METHODS.includes(method)) throw new ToolError(`method: must be one of ${METHODS.join(', ')}`);
  const given = args['headers'] ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) throw new ToolError('headers: must be an object of strings');
  const headers: OutgoingHttpHeaders = { 'user-agent': 'berth-agent/1', accept: '*/*' };
  for (const [name, value] of Object.entries(given)) {
    const lower = name.toLowerCase();
    if (typeof value !== 'string') throw new ToolError('headers: must be an object of strings');
    if (!RESERVED_HEADERS.has(lower) && !lower.startsWith('proxy-')) headers[lower] = value;
  }
  return { url: readUrl(stringArgument(args, 'url')), method, headers, body: optionalString(args, 'body', '') };
}

function readUrl(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    throw new ToolError('url: is not a URL');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw new ToolError('url: must begin with http:// or https://');
  if (url.username !== '' || url.password !== '') throw new ToolError('url: must not hold a user name or password');
  url.hash = '';
  return url;
}

async function follow(egress: Egress, first: Ask, signal: AbortSignal): Promise<ToolResult> {
  let ask = first;
  for (let redirects = 0; ; redirects++) {
    const response = await send(egress, ask, signal);
    const location = response.headers.location;
    const status = response.statusCode ?? 0;
    if (![301, 302, 303, 307, 308].includes(status) || location === undefined) return readResult(response, ask.url);
    response.destroy();
    if (redirects === MOST_REDIRECTS) throw new ToolError(`more than ${MOST_REDIRECTS} redirects`);
    ask = redirected(ask, readUrl(location, ask.url), status);
  }
}

/** As browsers do: other methods than GET and HEAD become GET but for 307 and 308, and credentials stay with the host they were for. */
function redirected(ask: Ask, url: URL, status: number): Ask {
  const headers = { ...ask.headers };
  if (url.origin !== ask.url.origin) for (const name of ['authorization', 'cookie']) delete headers[name];
  const keeps = status === 307 || status === 308 || ask.method === 'GET' || ask.method === 'HEAD';
  return keeps ? { ...ask, url, headers } : { url, method: 'GET', headers, body: '' };
}

async function send(egress: Egress, { url, method, headers, body }: Ask, signal: AbortSignal): Promise<IncomingMessage> {
  const all: OutgoingHttpHeaders = { ...headers, host: url.host, 'accept-encoding': 'identity', connection: 'close' };
  if (body !== '') all['content-length'] = Buffer.byteLength(body);
  if (url.protocol === 'http:')
    return egress.forward({ url: url.href, method, headers: all, signal }, (request) => void request.end(body));
  const secure = await startTls(await egress.tunnel(`${url.hostname}:${url.port || 443}`, signal), url.hostname, signal);
  try {
    return await new Promise((resolve, reject) => {
      const request = httpRequest({
        createConnection: () => secure,
        method,
        path: `${url.pathname}${url.search}`,
        headers: all,
        signal,
      });
      request.once('error', reject);
      request.once('response', resolve);
      request.end(body);
    });
  } catch (error) {
    // A request that was refused before it was sent has not taken the connection with it.
    secure.destroy();
    throw error;
  }
}

async function startTls(tunnel: Duplex, host: string, signal: AbortSignal): Promise<Duplex> {
  // Loaded at first use: most agents never fetch, and it is memory.
  const { connect } = await import('node:tls');
  const { isIP } = await import('node:net');
  return new Promise((resolve, reject) => {
    const secure = connect({ socket: tunnel, ...(isIP(host.replace(/^\[|\]$/g, '')) ? {} : { servername: host }) });
    const abort = () => secure.destroy(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    secure.once('close', () => {
      signal.removeEventListener('abort', abort);
      // TLS does not end what it was put upon, and a tunnel that stays keeps its place taken.
      tunnel.destroy();
    });
    secure.once('error', reject);
    secure.once('secureConnect', () => resolve(secure));
  });
}

async function readResult(response: IncomingMessage, url: URL): Promise<ToolResult> {
  const type = response.headers['content-type'] ?? '';
  const { bytes, cut } = await readCapped(response);
  const status = response.statusCode ?? 0;
  const head = `HTTP ${status} ${response.statusMessage ?? ''}`.trim();
  const lines = [`${head}\nurl: ${url.href}\ncontent-type: ${type || 'not given'}`, bodyText(bytes, type)];
  if (cut) lines.push('[… only the first 1 MB was read]');
  return { ok: status < 400, text: middleOut(lines.join('\n\n'), MOST_RESULT_CHARS) };
}

async function readCapped(response: IncomingMessage): Promise<{ bytes: Buffer; cut: boolean }> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    pieces.push(piece);
    length += piece.length;
    if (length >= MOST_BYTES) break;
  }
  return { bytes: Buffer.concat(pieces).subarray(0, MOST_BYTES), cut: length > MOST_BYTES };
}

function bodyText(bytes: Buffer, type: string): string {
  if (bytes.length === 0) return '(empty)';
  if (type !== '' ? !TEXT_TYPE.test(type) : bytes.subarray(0, 8192).includes(0))
    return `(${bytes.length} bytes that are not text)`;
  const text = bytes.toString(/charset=["']?(?:iso-8859-1|latin1|windows-1252)/i.test(type) ? 'latin1' : 'utf8');
  return /^text\/html|application\/xhtml/i.test(type) ? htmlToText(text) : text;
}

function inWords(error: unknown, signal: AbortSignal): unknown {
  if (error instanceof ToolError) return error;
  if (signal.aborted) return new ToolError(`it took longer than ${TIMEOUT_MS / 1000} seconds`);
  if (error instanceof EgressRefused) return new ToolError(`the egress proxy refused (${error.status}): ${error.reason}`);
  const { code, message } = error as NodeJS.ErrnoException;
  return new ToolError(`the fetch failed (${code ?? message})`);
}
