import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import type { Resolver } from 'node:dns/promises';
import type { BlockList, Socket } from 'node:net';
import { AppError, type ErrorCode, messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { Bucket } from '../lib/bucket.js';
import { checkHostHeader, type ForwardTarget, forwardRequest, parseAbsoluteForm } from './forward.js';
import type { LinkIdentity } from './link.js';
import type { Egress } from './listener.js';
import { type LiveConnection, LiveConnections } from './live.js';
import { checkPolicy, type EgressPolicy, parseTarget, type Target } from './policy.js';
import { answerRaw } from './refusal.js';
import { Shares } from '../lib/shares.js';
import { createResolver, dialChecked, parseDenied, resolveChecked } from './resolve.js';
import { runTunnel } from './tunnel.js';

export interface EgressLimits {
  /** Connections of one instance at a time, of all of one user's, and of all. */
  maxPerInstance: number;
  maxPerUser: number;
  maxTotal: number;
  /** Names being looked up at a time, of all instances of one user, and of all. */
  maxLookUpsPerUser: number;
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
  maxPerUser: 256,
  maxTotal: 1_024,
  maxLookUpsPerUser: 16,
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
  /** Keeps count of what goes where. */
  ledger?: EgressLedger;
  /** Name servers; the host's own (from resolv.conf) where not given. */
  servers?: string[];
  /** Addresses and networks refused besides those of no public use: `1.2.3.4`, `10.0.0.0/8`. */
  deny?: string[];
  limits?: Partial<EgressLimits>;
}

/** What is counted of a target. */
export interface EgressAmounts {
  connections?: number;
  /** Refused by the policy, or failed. */
  refused?: number;
  bytesUp?: number;
  bytesDown?: number;
}

export interface EgressLedger {
  /** Called for each connection and each piece of it: must be quick and never throw. */
  note(identity: LinkIdentity, target: Target, amounts: EgressAmounts): void;
}

/** Where what was asked for is no target at all. */
const NOWHERE: Target = { host: '*', port: 0 };

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
  readonly #live = new LiveConnections();
  readonly #plainServer: http.Server;
  #resolver: Resolver | undefined;
  #resolverSinceMs = 0;
  #open = 0;
  #lookUps = 0;
  /** What each user has of both, so that one with many instances leaves room for the others. */
  readonly #openOf = new Shares();
  readonly #lookUpsOf = new Shares();

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
      this.#countRefusal(
        identity,
        targetOf(() => parseTarget(request.url ?? '')),
        error,
      );
      if (socket.destroyed) return;
      answerRaw(socket, statusOf(error), `${publicMessage(error)}\n`);
    });
  }

  forward(identity: LinkIdentity, request: IncomingMessage, response: ServerResponse): void {
    this.#forward(identity, request, response, () => parseAbsoluteForm(request));
  }

  /** The policy of a deployment may have changed: what it no longer allows is cut. */
  recheck(deploymentId: string): Promise<void> {
    return this.#live.recheck(deploymentId, (identity) => this.#options.policyOf(identity), this.#options.log);
  }

  /** As `recheck`, for everything that is open: in case no word of a change came. */
  async recheckAll(): Promise<void> {
    for (const deploymentId of this.#live.deployments()) await this.recheck(deploymentId);
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
    const live = { identity, target, isNameStrict: true, cut: () => void socket.destroy() };
    const leave = this.#live.add(live);
    try {
      const policy = await this.#options.policyOf(identity);
      checkPolicy(policy, target);
      live.isNameStrict = policy.mode === 'allowlist';
      if (target.port === 80 && live.isNameStrict) return this.#pin(identity, target, socket, head);
      await this.#tunnel(identity, target, socket, head, live.isNameStrict);
    } finally {
      leave();
    }
  }

  async #tunnel(identity: LinkIdentity, target: Target, socket: Socket, head: Buffer, isNameStrict: boolean): Promise<void> {
    await this.#withSlot(identity, async (account) => {
      const upstream = await this.#dial(identity, target, socket);
      account.traffic.accepted += 1;
      this.#options.ledger?.note(identity, target, { connections: 1 });
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      const refusal = await runTunnel(socket, head, upstream, {
        host: target.host,
        isTlsOnly: target.port === 443,
        isNameStrict,
        helloTimeoutMs: this.#limits.helloMs,
        idleMs: this.#limits.idleMs,
        pace: account.pace,
        onBytes: (direction, bytes) => this.#count(identity, target, account, direction, bytes),
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
      const pin = this.#pinned.get(request.socket);
      this.#countRefusal(identity, pin?.target ?? targetOf(() => parseAbsoluteForm(request)), error);
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
    const live: LiveConnection = { identity, target, cut: () => void response.destroy() };
    const leave = this.#live.add(live);
    try {
      checkPolicy(await this.#options.policyOf(identity), target);
      if (target.port === 443) throw new AppError('forbidden', 'port 443 is for TLS');
      await this.#withSlot(identity, async (account) => {
        const upstream = await this.#dial(identity, target, response);
        account.traffic.accepted += 1;
        this.#options.ledger?.note(identity, target, { connections: 1 });
        live.cut = () => {
          upstream.destroy();
          response.destroy();
        };
        upstream.once('close', () => {
          this.#count(identity, target, account, 'up', upstream.bytesWritten);
          this.#count(identity, target, account, 'down', upstream.bytesRead);
        });
        await forwardRequest(request, response, target, upstream, this.#limits);
      });
    } finally {
      leave();
    }
  }

  #count(identity: LinkIdentity, target: Target, { traffic }: Account, direction: 'up' | 'down', bytes: number): void {
    if (direction === 'up') traffic.bytesUp += bytes;
    else traffic.bytesDown += bytes;
    this.#options.ledger?.note(identity, target, direction === 'up' ? { bytesUp: bytes } : { bytesDown: bytes });
  }

  /** A connection to a checked address of the target; given up when the instance hangs up meanwhile. */
  async #dial({ userId }: LinkIdentity, target: Target, waiting: Socket | ServerResponse): Promise<Socket> {
    const gone = new AbortController();
    const onClose = () => gone.abort(new AppError('upstream_error', 'the caller hung up'));
    if (waiting.destroyed) onClose();
    waiting.once('close', onClose);
    try {
      return await dialChecked(await this.#resolve(userId, target.host), target.port, {
        timeoutMs: this.#limits.dialMs,
        signal: gone.signal,
      });
    } finally {
      waiting.off('close', onClose);
    }
  }

  async #resolve(userId: string, host: string): ReturnType<typeof resolveChecked> {
    if (this.#lookUpsOf.of(userId) >= this.#limits.maxLookUpsPerUser)
      throw new AppError('rate_limited', 'too many names are being looked up for this user');
    if (this.#lookUps >= this.#limits.maxLookUps) throw new AppError('unavailable', 'too many names are being looked up');
    this.#lookUps += 1;
    this.#lookUpsOf.add(userId, 1);
    try {
      return await resolveChecked(host, {
        resolver: this.#currentResolver(),
        timeoutMs: this.#limits.lookUpMs,
        deny: this.#deny,
      });
    } finally {
      this.#lookUps -= 1;
      this.#lookUpsOf.add(userId, -1);
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
    if (this.#openOf.of(identity.userId) >= this.#limits.maxPerUser)
      throw new AppError('rate_limited', 'too many connections of this user');
    if (this.#open >= this.#limits.maxTotal) throw new AppError('unavailable', 'the proxy is busy');
    account.traffic.open += 1;
    this.#open += 1;
    this.#openOf.add(identity.userId, 1);
    try {
      await work(account);
    } finally {
      account.traffic.open -= 1;
      this.#open -= 1;
      this.#openOf.add(identity.userId, -1);
    }
  }

  #account(identity: LinkIdentity): Account {
    const known = this.#accounts.get(identity.instanceId);
    if (known) return known;
    const fresh = { traffic: emptyTraffic(), pace: new Bucket(this.#limits.bytesPerS, this.#limits.bytesPerS) };
    this.#accounts.set(identity.instanceId, fresh);
    return fresh;
  }

  #countRefusal(identity: LinkIdentity, target: Target, error: unknown): void {
    this.#account(identity).traffic.refused += 1;
    this.#options.ledger?.note(identity, target, { refused: 1 });
    this.#options.log.info({ ...identity, target: target.host, reason: messageOf(error) }, 'egress refused or failed');
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

/** What a refused call was for, as far as that can be told. Host and port alone: paths are the agent's own business, and may hold secrets. */
function targetOf(read: () => Target): Target {
  try {
    const { host, port } = read();
    return { host, port };
  } catch {
    return NOWHERE;
  }
}

function emptyTraffic(): EgressTraffic {
  return { open: 0, accepted: 0, refused: 0, bytesUp: 0, bytesDown: 0 };
}
