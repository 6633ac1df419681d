import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import type { Resolver } from 'node:dns/promises';
import type { BlockList, Socket } from 'node:net';
import { AppError, type ErrorCode, messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { Bucket } from './bucket.js';
import { checkHostHeader, type ForwardTarget, forwardRequest, parseAbsoluteForm } from './forward.js';
import type { LinkIdentity } from './link.js';
import type { Egress } from './listener.js';
import { checkPolicy, type EgressPolicy, parseTarget, type Target } from './policy.js';
import { answerRaw } from './refusal.js';
import { createResolver, dialChecked, parseDenied, resolveChecked } from './resolve.js';
import { runTunnel } from './tunnel.js';

export interface EgressLimits {
  /** Connections of one instance at a time, and of all. */
  maxPerInstance: number;
  maxTotal: number;
  /** Names being looked up at a time, of all instances. */
  maxLookUps: number;
  lookUpMs: number;
  dialMs: number;
  /** From the 200 to the end of the TLS ClientHello. */
  helloMs: number;
  /** Without a byte in either direction. */
  idleMs: number;
  maxHeaderBytes: number;
  /** Of one instance, in both directions together. */
  bytesPerS: number;
}

export const DEFAULT_EGRESS_LIMITS: EgressLimits = {
  maxPerInstance: 32,
  maxTotal: 1_024,
  maxLookUps: 64,
  lookUpMs: 5_000,
  dialMs: 5_000,
  helloMs: 10_000,
  idleMs: 120_000,
  maxHeaderBytes: 32 * 1024,
  bytesPerS: 32 * 1024 * 1024,
};

export interface EgressOptions {
  /** What an instance is allowed; asked for every connection, so that a change counts at once. */
  policyOf(identity: LinkIdentity): EgressPolicy | Promise<EgressPolicy>;
  log: Log;
  /** Name servers; the host's own (from resolv.conf) where not given. */
  servers?: string[];
  /** Addresses and networks refused besides those of no public use: `1.2.3.4`, `10.0.0.0/8`. */
  deny?: string[];
  limits?: Partial<EgressLimits>;
}

/** What an instance has moved through the proxy, since the process started. */
export interface EgressTraffic {
  open: number;
  accepted: number;
  refused: number;
  bytesUp: number;
  bytesDown: number;
}

interface Account {
  traffic: EgressTraffic;
  pace: Bucket;
}

/** How long the host's name servers are taken for granted. */
const RESOLVER_LIFE_MS = 60_000;

/**
 * The only way out of an instance: CONNECT and absolute-form http://, held to the instance's policy. A name is resolved once, its
 * addresses are checked, and the connection goes to the very address that was checked.
 */
export class EgressProxy implements Egress {
  readonly #options: EgressOptions;
  readonly #limits: EgressLimits;
  readonly #deny: BlockList;
  readonly #accounts = new Map<string, Account>();
  /** Connections whose CONNECT named a plain-text port: every request on them is held to that name. */
  readonly #pinned = new WeakMap<Socket, { identity: LinkIdentity; target: Target }>();
  readonly #plainServer: http.Server;
  #resolver: Resolver | undefined;
  #resolverSinceMs = 0;
  #open = 0;
  #lookUps = 0;

  constructor(options: EgressOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_EGRESS_LIMITS, ...options.limits };
    this.#deny = parseDenied(options.deny ?? []);
    this.#plainServer = http.createServer({ maxHeaderSize: this.#limits.maxHeaderBytes }, (request, response) => {
      this.#forwardPinned(request, response);
    });
    this.#plainServer.setTimeout(this.#limits.idleMs);
  }

  connect(identity: LinkIdentity, request: IncomingMessage, socket: Socket, head: Buffer): void {
    this.#connect(identity, request.url ?? '', socket, head).catch((error: unknown) => {
      this.#countRefusal(identity, request.url ?? '', error);
      if (socket.destroyed) return;
      answerRaw(socket, statusOf(error), `${publicMessage(error)}\n`);
    });
  }

  forward(identity: LinkIdentity, request: IncomingMessage, response: ServerResponse): void {
    this.#forward(identity, request, response, () => parseAbsoluteForm(request));
  }

  traffic(instanceId: string): EgressTraffic {
    return { ...(this.#accounts.get(instanceId)?.traffic ?? emptyTraffic()) };
  }

  /** Drops the counters of an instance that is no more. */
  forget(instanceId: string): void {
    this.#accounts.delete(instanceId);
  }

  async #connect(identity: LinkIdentity, authority: string, socket: Socket, head: Buffer): Promise<void> {
    const target = parseTarget(authority);
    const policy = await this.#options.policyOf(identity);
    checkPolicy(policy, target);
    const isNameStrict = policy.mode === 'allowlist';
    if (target.port === 80 && isNameStrict) return this.#pin(identity, target, socket, head);
    await this.#withSlot(identity, async (account) => {
      const upstream = await this.#dial(target, socket);
      account.traffic.accepted += 1;
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      const refusal = await runTunnel(socket, head, upstream, {
        host: target.host,
        isTlsOnly: target.port === 443,
        isNameStrict,
        helloTimeoutMs: this.#limits.helloMs,
        idleMs: this.#limits.idleMs,
        pace: account.pace,
        onBytes: (direction, bytes) => count(account, direction, bytes),
      });
      if (refusal) throw new AppError('forbidden', refusal);
    });
  }

  /** Plain HTTP within a tunnel: read request by request, since each could name another host. */
  #pin(identity: LinkIdentity, target: Target, socket: Socket, head: Buffer): void {
    this.#pinned.set(socket, { identity, target });
    socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
    if (head.length > 0) socket.unshift(head);
    this.#plainServer.emit('connection', socket);
  }

  #forwardPinned(request: IncomingMessage, response: ServerResponse): void {
    const pin = this.#pinned.get(request.socket);
    if (!pin) return void request.socket.destroy();
    this.#forward(pin.identity, request, response, () => {
      const path = request.url ?? '';
      if (!path.startsWith('/')) throw new AppError('invalid_request', 'the path must begin with a slash');
      checkHostHeader(request, pin.target);
      return { ...pin.target, path };
    });
  }

  #forward(identity: LinkIdentity, request: IncomingMessage, response: ServerResponse, read: () => ForwardTarget): void {
    this.#carry(identity, request, response, read).catch((error: unknown) => {
      this.#countRefusal(identity, request.url ?? '', error);
      if (response.headersSent) return void response.destroy();
      response.writeHead(statusOf(error), { 'content-type': 'text/plain; charset=utf-8', connection: 'close' });
      response.end(`${publicMessage(error)}\n`);
    });
  }

  async #carry(
    identity: LinkIdentity,
    request: IncomingMessage,
    response: ServerResponse,
    read: () => ForwardTarget,
  ): Promise<void> {
    const target = read();
    const policy = await this.#options.policyOf(identity);
    checkPolicy(policy, target);
    if (target.port === 443) throw new AppError('forbidden', 'port 443 is for TLS');
    await this.#withSlot(identity, async (account) => {
      const upstream = await this.#dial(target, response);
      account.traffic.accepted += 1;
      upstream.once('close', () => {
        count(account, 'up', upstream.bytesWritten);
        count(account, 'down', upstream.bytesRead);
      });
      await forwardRequest(request, response, target, upstream, this.#limits);
    });
  }

  /** A connection to a checked address of the target; given up when the instance hangs up meanwhile. */
  async #dial(target: Target, waiting: Socket | ServerResponse): Promise<Socket> {
    const gone = new AbortController();
    const onClose = () => gone.abort(new AppError('upstream_error', 'the caller hung up'));
    waiting.once('close', onClose);
    try {
      return await dialChecked(await this.#resolve(target.host), target.port, {
        timeoutMs: this.#limits.dialMs,
        signal: gone.signal,
      });
    } finally {
      waiting.off('close', onClose);
    }
  }

  async #resolve(host: string): ReturnType<typeof resolveChecked> {
    if (this.#lookUps >= this.#limits.maxLookUps) throw new AppError('unavailable', 'too many names are being looked up');
    this.#lookUps += 1;
    try {
      return await resolveChecked(host, {
        resolver: this.#currentResolver(),
        timeoutMs: this.#limits.lookUpMs,
        deny: this.#deny,
      });
    } finally {
      this.#lookUps -= 1;
    }
  }

  #currentResolver(): Resolver {
    const nowMs = performance.now();
    if (!this.#resolver || nowMs - this.#resolverSinceMs > RESOLVER_LIFE_MS) {
      this.#resolver = createResolver(this.#options.servers);
      this.#resolverSinceMs = nowMs;
    }
    return this.#resolver;
  }

  async #withSlot(identity: LinkIdentity, work: (account: Account) => Promise<void>): Promise<void> {
    const account = this.#account(identity);
    if (account.traffic.open >= this.#limits.maxPerInstance) throw new AppError('rate_limited', 'too many connections');
    if (this.#open >= this.#limits.maxTotal) throw new AppError('unavailable', 'the proxy is busy');
    account.traffic.open += 1;
    this.#open += 1;
    try {
      await work(account);
    } finally {
      account.traffic.open -= 1;
      this.#open -= 1;
    }
  }

  #account(identity: LinkIdentity): Account {
    const known = this.#accounts.get(identity.instanceId);
    if (known) return known;
    const fresh = { traffic: emptyTraffic(), pace: new Bucket(this.#limits.bytesPerS, this.#limits.bytesPerS) };
    this.#accounts.set(identity.instanceId, fresh);
    return fresh;
  }

  #countRefusal(identity: LinkIdentity, target: string, error: unknown): void {
    this.#account(identity).traffic.refused += 1;
    this.#options.log.info({ ...identity, target: hostPart(target), reason: messageOf(error) }, 'egress refused or failed');
  }
}

const STATUSES: Partial<Record<ErrorCode, number>> = {
  invalid_request: 400,
  forbidden: 403,
  rate_limited: 429,
  upstream_error: 502,
  unavailable: 503,
  timeout: 504,
};

function statusOf(error: unknown): number {
  return (error instanceof AppError ? STATUSES[error.code] : undefined) ?? 502;
}

function publicMessage(error: unknown): string {
  return error instanceof AppError ? error.message : 'the upstream failed';
}

/** A URL's path and query are the agent's own business, and may hold its secrets. */
function hostPart(target: string): string {
  return target.replace(/^(https?:\/\/)?([^/?#]*).*$/is, '$2').slice(0, 260);
}

function emptyTraffic(): EgressTraffic {
  return { open: 0, accepted: 0, refused: 0, bytesUp: 0, bytesDown: 0 };
}

function count(account: Account, direction: 'up' | 'down', bytes: number): void {
  if (direction === 'up') account.traffic.bytesUp += bytes;
  else account.traffic.bytesDown += bytes;
}
