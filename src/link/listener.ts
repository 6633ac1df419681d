import { createHash, timingSafeEqual } from 'node:crypto';
import { chmod, rename, unlink } from 'node:fs/promises';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Log } from '../lib/log.js';
import { Conduct } from './conduct.js';
import { LinkConnection } from './connection.js';
import { checkSocketPath, ignoreMissing } from './folder.js';
import type { LinkLimits } from './limits.js';
import type { InstanceSideHandler, LinkIdentity } from './link.js';
import { type Cost, MeteredMessage, meterOf, SocketMeter } from './meter.js';
import { answerPlain, answerRaw, NO_EGRESS, type Refusal, upgradeRefusal } from './refusal.js';

/** The way out to the internet that an instance may be given. The caller is proven, as for plain requests. */
export interface Egress {
  connect(identity: LinkIdentity, request: IncomingMessage, socket: Socket, head: Buffer): void;
  forward(identity: LinkIdentity, request: IncomingMessage, response: ServerResponse): void;
  /** The instance is no more. */
  forget(instanceId: string): void;
}

export interface ListenerOptions {
  identity: LinkIdentity;
  socketPath: string;
  /** Hex digest of the only token that is let in. */
  tokenSha256: string;
  limits: LinkLimits;
  log: Log;
  handler: InstanceSideHandler;
  egress: Egress | undefined;
  onUp(link: LinkConnection): void;
  onDown(link: LinkConnection, reason: string): void;
  onAbuse(reason: string): void;
}

/** Room for the header of an accepted request. */
const HEADER_ALLOWANCE_BYTES = 2048;

/** One instance's own socket on this process: proves who calls, passes the call on, and watches what it costs. */
export class InstanceListener {
  readonly identity: LinkIdentity;
  readonly #options: ListenerOptions;
  readonly #limits: LinkLimits;
  readonly #conduct: Conduct;
  readonly #sockets = new Map<Socket, SocketMeter>();
  readonly #links = new Set<LinkConnection>();
  readonly #tunnels = new Set<Socket>();
  #booked: Cost = { spent: 0, earned: 0 };
  #tokenDigest: Buffer;
  #server: http.Server | undefined;
  #current: LinkConnection | undefined;
  #plainInFlight = 0;
  #watched = true;
  #closed = false;
  #relisten: NodeJS.Timeout | undefined;

  constructor(options: ListenerOptions) {
    this.identity = { ...options.identity };
    this.#options = options;
    this.#limits = options.limits;
    this.#conduct = new Conduct(options.limits);
    this.#tokenDigest = Buffer.from(options.tokenSha256, 'hex');
    checkSocketPath(options.socketPath);
  }

  /** The live link, if the instance has one. */
  get link(): LinkConnection | undefined {
    return this.#current?.closed === false ? this.#current : undefined;
  }

  /** Another token counts from now on; links that the old one proved stay. */
  setToken(tokenSha256: string): void {
    this.#tokenDigest = Buffer.from(tokenSha256, 'hex');
  }

  /** Listens under a name of its own first, so that the socket appears complete, with its mode set, or not at all. */
  async listen(): Promise<void> {
    const server = this.#createServer();
    const fresh = this.#options.socketPath.replace(/\.sock$/, '.new');
    await unlink(fresh).catch(ignoreMissing);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(fresh, () => {
        server.off('error', reject);
        resolve();
      });
    });
    server.on('error', (error) => this.#options.log.error({ err: error, ...this.identity }, 'instance socket failed'));
    await chmod(fresh, 0o666);
    await rename(fresh, this.#options.socketPath);
    this.#server = server;
    if (this.#closed) await this.#unlisten();
  }

  /** Stops listening, cuts every connection and takes the socket out of the folder. */
  async close(reason: string): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#relisten);
    await this.#unlisten();
    this.#cutAll(reason);
  }

  /** Cuts what the instance has open to the internet, so that a stricter policy counts at once. */
  cutTunnels(): void {
    for (const socket of this.#tunnels) socket.destroy();
  }

  /** From now on it is that user's; nobody's before. */
  assign(userId: string): void {
    this.identity.userId = userId;
    for (const link of this.#links) link.assign(userId);
  }

  pauseWatch(): void {
    this.#watched = false;
    for (const link of this.#links) link.pauseWatch();
  }

  resumeWatch(): void {
    this.#watched = true;
    for (const link of this.#links) link.resumeWatch();
  }

  /** One beat of the watch: pings, and whether what came was worth reading. */
  watch(nowMs: number, lateMs: number): void {
    // What nobody is connected to costs nothing: most of what sleeps.
    if (this.#sockets.size === 0 && this.#links.size === 0 && this.#booked.spent === 0) return;
    for (const meter of this.#sockets.values()) this.#book(meter.take());
    for (const link of this.#links) {
      this.#book(link.takeCost());
      link.watch(nowMs, lateMs);
    }
    const { spent, earned } = this.#booked;
    this.#booked = { spent: 0, earned: 0 };
    if (this.#conduct.framing.settle(spent, earned, nowMs)) return;
    this.#punish('sent far more bytes than they carried payload');
  }

  #createServer(): http.Server {
    const limits = this.#limits;
    const server = http.createServer({
      IncomingMessage: MeteredMessage,
      maxHeaderSize: limits.maxHeaderBytes,
      headersTimeout: limits.headerTimeoutMs,
      requestTimeout: limits.bodyTimeoutMs,
      connectionsCheckingInterval: Math.min(1000, limits.headerTimeoutMs),
      keepAliveTimeout: 60_000,
    });
    server.maxConnections = limits.maxConnections;
    server.on('connection', (socket: Socket) => this.#onConnection(socket));
    server.on('drop', () => this.#countRefusal());
    server.on('clientError', (error, socket: Duplex) => this.#onGarbage(error, socket as Socket));
    server.on('request', (request, response) => this.#onRequest(request, response));
    server.on('upgrade', (request, socket: Duplex, head) => this.#onUpgrade(request, socket as Socket, head));
    server.on('connect', (request, socket: Duplex, head) => this.#onConnect(request, socket as Socket, head));
    return server;
  }

  #onConnection(socket: Socket): void {
    // Accepted before the socket was taken away.
    if (this.#relisten) return void socket.destroy();
    this.#sockets.set(socket, new SocketMeter(socket, () => this.#onTiny()));
    socket.once('close', () => this.#forget(socket));
    socket.on('error', () => socket.destroy());
    if (!this.#conduct.connections.take()) this.#shut('opened connections without end');
  }

  /** What the parser refuses, and headers or bodies that did not end in time. */
  #onGarbage(error: NodeJS.ErrnoException, socket: Socket): void {
    if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') this.#countRefusal();
    if (socket.destroyed) return;
    if (socket.writable && socket.bytesWritten === 0) answerRaw(socket, 400, 'this is not a request\n');
    else socket.destroy();
  }

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const isProxy = !request.url?.startsWith('/');
    const refusal = this.#refusalOf(request, isProxy) ?? this.#plainRefusal();
    if (refusal) {
      answerPlain(response, refusal);
      return;
    }
    meterOf(request.socket)?.allow(HEADER_ALLOWANCE_BYTES);
    this.#plainInFlight += 1;
    response.once('close', () => (this.#plainInFlight -= 1));
    if (!isProxy) this.#handle(request, response);
    else if (this.#options.egress) this.#options.egress.forward(this.identity, request, response);
    else answerPlain(response, NO_EGRESS);
  }

  #handle(request: IncomingMessage, response: ServerResponse): void {
    try {
      this.#options.handler(this.identity, request, response);
    } catch (error) {
      this.#options.log.error({ err: error, ...this.identity }, 'the instance side failed');
      if (response.headersSent) response.destroy();
      else answerPlain(response, { status: 500, message: 'internal server error' });
    }
  }

  #onConnect(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const refusal = this.#refusalOf(request, true) ?? this.#plainRefusal() ?? (this.#options.egress ? undefined : NO_EGRESS);
    if (refusal) {
      answerRaw(socket, refusal.status, `${refusal.message}\n`, refusal.retryAfterS);
      return;
    }
    // Every byte of a tunnel is payload; the proxy has its own caps.
    this.#sockets.delete(socket);
    this.#tunnels.add(socket);
    this.#options.egress?.connect(this.identity, request, socket, head);
  }

  #onUpgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const refusal = this.#refusalOf(request, false) ?? upgradeRefusal(request) ?? this.#linkRefusal();
    if (refusal) {
      answerRaw(socket, refusal.status, `${refusal.message}\n`, refusal.retryAfterS);
      return;
    }
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\n');
    const link: LinkConnection = new LinkConnection(this.identity, socket, head, this.#limits, {
      onUp: () => this.#onUp(link),
      onDown: (reason) => this.#options.onDown(link, reason),
      onTiny: () => this.#onTiny(),
      onViolation: (reason, wasUp) => (wasUp ? this.#punish(`broke HTTP/2: ${reason}`) : this.#countRefusal()),
      onClosed: () => this.#onLinkClosed(link),
    });
    this.#sockets.delete(socket);
    this.#links.add(link);
    if (!this.#watched) link.pauseWatch();
  }

  /** Only a peer that has shown it speaks HTTP/2 takes the place of the link before it. */
  #onUp(link: LinkConnection): void {
    const before = this.#current;
    this.#current = link;
    before?.close('replaced by a newer link');
    this.#options.onUp(link);
  }

  #onLinkClosed(link: LinkConnection): void {
    if (this.#links.delete(link)) this.#book(link.takeCost());
    if (this.#current === link) this.#current = undefined;
  }

  #refusalOf(request: IncomingMessage, isProxy: boolean): Refusal | undefined {
    const header = isProxy ? request.headers['proxy-authorization'] : request.headers.authorization;
    if (!this.#isToken(header)) {
      this.#countRefusal();
      if (!this.#conduct.wrongTokens.take()) return { status: 429, message: 'too many wrong tokens', retryAfterS: 60 };
      return { status: isProxy ? 407 : 401, message: 'the token is missing or wrong' };
    }
    const blockedMs = this.#conduct.blockedMs();
    if (blockedMs === 0) return undefined;
    this.#countRefusal();
    return { status: 429, message: 'cut off for abuse', retryAfterS: Math.ceil(blockedMs / 1000) };
  }

  #plainRefusal(): Refusal | undefined {
    if (this.#plainInFlight < this.#limits.maxPlainInFlight && this.#conduct.plain.take()) return undefined;
    this.#countRefusal();
    return { status: 429, message: 'too many requests', retryAfterS: 1 };
  }

  #linkRefusal(): Refusal | undefined {
    if (this.#conduct.links.take()) return undefined;
    this.#countRefusal();
    return { status: 429, message: 'too many links', retryAfterS: 5 };
  }

  #isToken(header: string | undefined): boolean {
    const token = header?.match(/^Bearer ([\x21-\x7e]{1,512})$/i)?.[1] ?? '';
    const digest = createHash('sha256').update(token).digest();
    return this.#tokenDigest.length === digest.length && timingSafeEqual(digest, this.#tokenDigest);
  }

  #countRefusal(): void {
    if (!this.#conduct.refusals.take()) this.#shut('kept calling after it was refused');
  }

  /** Refusing costs time too: an instance that goes on and on finds no socket for the time of its penalty. */
  #shut(reason: string): void {
    if (this.#closed || this.#relisten) return;
    const lengthMs = this.#punish(reason);
    void this.#unlisten().catch((error: unknown) =>
      this.#options.log.error({ err: error }, 'could not take down an instance socket'),
    );
    this.#relisten = setTimeout(() => {
      this.#relisten = undefined;
      this.listen().catch((error: unknown) => this.#options.log.error({ err: error }, 'could not listen again'));
    }, lengthMs);
  }

  #punish(reason: string): number {
    if (this.#closed) return 0;
    const leftMs = this.#conduct.blockedMs();
    // What had been read before the cut is still being handled: one offence is punished once.
    if (leftMs > 0 && !this.#hasConnections()) return leftMs;
    const lengthMs = this.#conduct.punish();
    this.#options.log.warn({ ...this.identity, reason, penaltyMs: lengthMs }, 'instance cut off for abuse');
    this.#cutAll(`cut off for abuse: ${reason}`);
    this.#options.onAbuse(reason);
    return lengthMs;
  }

  #onTiny(): void {
    if (!this.#conduct.tiny.take()) this.#punish('sent a flood of tiny pieces');
  }

  #book(cost: Cost): void {
    this.#booked.spent += cost.spent;
    this.#booked.earned += cost.earned;
  }

  #hasConnections(): boolean {
    return this.#links.size > 0 || this.#sockets.size > 0 || this.#tunnels.size > 0;
  }

  #cutAll(reason: string): void {
    for (const link of this.#links) link.close(reason);
    for (const socket of this.#sockets.keys()) socket.destroy();
    for (const socket of this.#tunnels) socket.destroy();
    this.#links.clear();
    this.#sockets.clear();
    this.#tunnels.clear();
    this.#booked = { spent: 0, earned: 0 };
  }

  #forget(socket: Socket): void {
    const meter = this.#sockets.get(socket);
    if (meter) this.#book(meter.take());
    this.#sockets.delete(socket);
    this.#tunnels.delete(socket);
  }

  async #unlisten(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (!server) return;
    server.close();
    await unlink(this.#options.socketPath).catch(ignoreMissing);
  }
}
