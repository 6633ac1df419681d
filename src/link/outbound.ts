import { request as requestHttp, type IncomingMessage } from 'node:http';
import { type BlockList, connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { withDeadline } from '../lib/deadline.js';
import { AppError, messageOf } from '../lib/errors.js';
import { addressRefusal, dialChecked, normalHost, parseDenied, resolveChecked } from './resolve.js';

export interface OutboundLimits {
  connectMs: number;
  /** For everything: name, connection, TLS, answer. */
  totalMs: number;
  /** What of an answer's body is looked at; the rest is not read. */
  answerBytes: number;
}

export const OUTBOUND_LIMITS: OutboundLimits = { connectMs: 5_000, totalMs: 15_000, answerBytes: 4_096 };

export interface OutboundOptions {
  /** Addresses and networks that are refused besides those of no public use. */
  deny?: string[] | undefined;
  /** Hosts, as `host` or `host:port`, that may be anywhere. */
  allow?: string[] | undefined;
  limits?: Partial<OutboundLimits> | undefined;
}

export interface OutboundReply {
  status: number;
  retryAfter: string | undefined;
  /** The beginning of the body. */
  text: string;
}

/** What posts to where tenants say, and says where it never will. */
export type Poster = Pick<Outbound, 'refusal' | 'isAllowed' | 'post'>;

/**
 * Posts to URLs that tenants chose. A name is looked up once and dialled at an address that was checked: none that is private, of this host, or
 * of a cloud's metadata. A redirect is an answer as any other: it is not followed.
 */
export class Outbound {
  readonly #deny: BlockList;
  readonly #allow: ReadonlySet<string>;
  readonly #limits: OutboundLimits;

  constructor({ deny = [], allow = [], limits }: OutboundOptions = {}) {
    this.#deny = parseDenied(deny);
    this.#allow = new Set(allow.map((entry) => entry.toLowerCase()));
    this.#limits = { ...OUTBOUND_LIMITS, ...limits };
  }

  /** Why that URL will never be posted to, in words for whoever gave it; what a name resolves to is seen when it is dialled. */
  refusal(url: URL): string | undefined {
    if (!['http:', 'https:'].includes(url.protocol)) return 'must begin with https:// or http://';
    if (url.username !== '' || url.password !== '') return 'must not contain a user or a password';
    if (url.hash !== '') return 'must not contain a fragment';
    if (this.isAllowed(url)) return undefined;
    const host = hostOf(url);
    if (normalHost(host) === undefined) return 'must have a host that can be looked up';
    const kind = isIP(host) === 0 ? undefined : addressRefusal(host, this.#deny);
    if (kind !== undefined) return `must not be ${kind}`;
    const port = portOf(url);
    return port === 80 || port === 443 || port >= 1_024 ? undefined : 'must have port 80, 443, or one from 1024 on';
  }

  /** Whether the operator lets that host be anywhere. */
  isAllowed(url: URL): boolean {
    const host = hostOf(url);
    return this.#allow.has(host) || this.#allow.has(`${host}:${portOf(url)}`);
  }

  /** Throws what went wrong on the way there; an answer is an answer, whatever its status. */
  async post(url: URL, headers: Record<string, string>, body: string, signal?: AbortSignal): Promise<OutboundReply> {
    const refused = this.refusal(url);
    if (refused !== undefined) throw new AppError('forbidden', `the URL ${refused}`);
    return withDeadline('the request', this.#limits.totalMs, (cut) => this.#post(url, headers, body, cut), signal);
  }

  async #post(url: URL, headers: Record<string, string>, body: string, signal: AbortSignal): Promise<OutboundReply> {
    const plain = await this.#dial(url, signal);
    const onAbort = () => plain.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      const socket = url.protocol === 'https:' ? await secure(plain, hostOf(url)) : plain;
      const answer = await send(socket, url, headers, body);
      return {
        status: answer.statusCode ?? 0,
        retryAfter: answer.headers['retry-after'],
        text: await beginningOf(answer, this.#limits.answerBytes),
      };
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof AppError ? error : new AppError('upstream_error', messageOf(error), { cause: error });
    } finally {
      signal.removeEventListener('abort', onAbort);
      plain.destroy();
    }
  }

  async #dial(url: URL, signal: AbortSignal): Promise<Socket> {
    const [host, port, timeoutMs] = [hostOf(url), portOf(url), this.#limits.connectMs];
    if (this.isAllowed(url)) return dialAnywhere(host, port, timeoutMs);
    return dialChecked(await resolveChecked(host, { timeoutMs, deny: this.#deny }), port, { timeoutMs, signal });
  }
}

function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
}

function portOf(url: URL): number {
  return Number(url.port || (url.protocol === 'https:' ? 443 : 80));
}

/** A connection to where the operator said. */
function dialAnywhere(host: string, port: number, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const timer = setTimeout(() => socket.destroy(new AppError('timeout', 'no answer in time')), timeoutMs);
    // Stays for good: a connection that breaks later ends nothing but its own exchange.
    socket.on('error', (error) => (clearTimeout(timer), reject(error)));
    socket.once('connect', () => (clearTimeout(timer), resolve(socket)));
  });
}

function secure(socket: Socket, host: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const named = isIP(host) === 0 ? { servername: host } : {};
    const secured = connectTls({ socket, ALPNProtocols: ['http/1.1'], ...named });
    secured.on('error', reject);
    secured.once('close', () => reject(new AppError('upstream_error', 'the connection was closed')));
    secured.once('secureConnect', () => resolve(secured));
  });
}

function send(socket: Socket, url: URL, headers: Record<string, string>, body: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = requestHttp({
      method: 'POST',
      path: url.pathname + url.search,
      headers: { host: url.host, 'content-length': Buffer.byteLength(body), connection: 'close', ...headers },
      createConnection: () => socket,
    });
    request.once('response', resolve);
    request.on('error', reject);
    request.end(body);
  });
}

/** Whatever comes after it is not waited for: an answer may have no end. */
async function beginningOf(answer: IncomingMessage, limitBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer) {
    chunks.push(chunk as Buffer);
    size += (chunk as Buffer).length;
    if (size >= limitBytes) break;
  }
  return Buffer.concat(chunks).subarray(0, limitBytes).toString('utf8');
}
