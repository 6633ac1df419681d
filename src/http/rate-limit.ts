import { BlockList, isIP } from 'node:net';
import { RateLimiterMemory } from 'rate-limiter-flexible';
import type { Caller } from '../lib/caller.js';
import { AppError } from '../lib/errors.js';

const WINDOW_S = 60;

/** What one request left of an allowance. */
export interface Allowance {
  allowed: boolean;
  limit: number;
  remaining: number;
  resetS: number;
}

/** Requests per minute of a caller; undefined = not limited. Called for every request, so it must not ask the database each time. */
export type RequestsPerMinute = (caller: Caller) => number | undefined | Promise<number | undefined>;

export interface RateLimitOptions {
  perKey: RequestsPerMinute;
  /** Requests per minute and address on public routes and without a key. */
  perAddress?: number;
  /** Failed authentications per minute and address that are still answered 401. */
  failuresPerAddress?: number;
  /** Addresses, and keys, remembered at most. */
  remembered?: number;
}

/** Counts requests by key and by address, in the memory of this process: with several Berth processes each counts its own. */
export class RateLimits {
  readonly #perKey: RequestsPerMinute;
  readonly #perAddress: number;
  readonly #failuresPerAddress: number;
  readonly #keys: Counter;
  readonly #addresses: Counter;
  readonly #failures: Counter;

  constructor({ perKey, perAddress = 600, failuresPerAddress = 60, remembered = 20_000 }: RateLimitOptions) {
    this.#perKey = perKey;
    this.#perAddress = perAddress;
    this.#failuresPerAddress = failuresPerAddress;
    this.#keys = new Counter(remembered);
    this.#addresses = new Counter(remembered);
    this.#failures = new Counter(remembered);
  }

  /** Counts a request of that caller; undefined where it has no limit. */
  async ofCaller(caller: Caller): Promise<Allowance | undefined> {
    const asked = this.#perKey(caller);
    const limit = asked instanceof Promise ? await asked : asked;
    return limit === undefined ? undefined : this.#keys.take(caller.keyId, limit);
  }

  /** Counts a request without a key. */
  ofAddress(ip: string): Promise<Allowance> {
    return this.#addresses.take(networkOf(ip), this.#perAddress);
  }

  /**
   * Counts a key that was refused. Within the limit the answer stays 401, above it 429; a living key from the same address still
   * works, since many share one. Far above it (ten times) `isBarred` keeps the address from costing the database a look-up each.
   */
  ofFailure(ip: string): Promise<Allowance> {
    return this.#failures.take(networkOf(ip), this.#failuresPerAddress);
  }

  async isBarred(ip: string): Promise<boolean> {
    return (await this.#failures.count(networkOf(ip))) > this.#failuresPerAddress * 10;
  }

  /** Whether `isBarred` is worth asking: nearly always nobody has failed of late. */
  get hasFailures(): boolean {
    return this.#failures.alive > 0;
  }
}

export function tooManyRequests(allowance: Allowance): AppError {
  return new AppError('rate_limited', `more than ${allowance.limit} requests in a minute`, { retryAfterS: allowance.resetS });
}

/**
 * Fixed windows of a minute. The library gives each key a timer and never refuses a new one, so the number of keys is bounded here:
 * when `capacity` keys are alive, new ones share 256 buckets until old ones expire.
 */
class Counter {
  readonly #limiter = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: WINDOW_S });
  readonly #capacity: number;
  /** Keys that count now, as of the last call. */
  alive = 0;
  /** Keys first seen in each of the last WINDOW_S + 1 seconds. */
  readonly #firstSeen = new Uint32Array(WINDOW_S + 1);
  #second = nowS();

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  async take(key: string, limit: number): Promise<Allowance> {
    this.#forgetExpired();
    const crowded = this.alive >= this.#capacity && (await this.#limiter.get(key)) === null;
    const result = await this.#limiter.consume(crowded ? `shared:${bucketOf(key)}` : key);
    if (result.isFirstInDuration) {
      const slot = this.#second % this.#firstSeen.length;
      this.#firstSeen[slot] = (this.#firstSeen[slot] ?? 0) + 1;
      this.alive += 1;
    }
    const used = result.consumedPoints;
    return {
      allowed: used <= limit,
      limit,
      remaining: Math.max(0, limit - used),
      resetS: Math.max(1, Math.ceil(result.msBeforeNext / 1000)),
    };
  }

  async count(key: string): Promise<number> {
    this.#forgetExpired();
    return (await this.#limiter.get(key))?.consumedPoints ?? 0;
  }

  #forgetExpired(): void {
    const now = nowS();
    const slots = this.#firstSeen.length;
    for (let passed = Math.min(now - this.#second, slots); passed > 0; passed--) {
      const slot = (now - passed + 1) % slots;
      this.alive -= this.#firstSeen[slot] ?? 0;
      this.#firstSeen[slot] = 0;
    }
    this.#second = now;
  }
}

function nowS(): number {
  return Math.floor(performance.now() / 1000);
}

function bucketOf(key: string): number {
  let hash = 0;
  for (let i = 0; i < key.length; i++) hash = (hash * 31 + key.charCodeAt(i)) | 0;
  return hash & 255;
}

/** The unit that is counted: an IPv4 address, or the /64 an IPv6 address lies in, since a host may choose freely within it. */
export function networkOf(ip: string): string {
  if (!ip.includes(':')) return ip;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip);
  if (mapped?.[1]) return mapped[1];
  const [head = '', tail = ''] = ip.split('%')[0]!.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === '' ? [] : tail.split(':');
  const groups = [...left, ...Array<string>(Math.max(0, 8 - left.length - right.length)).fill('0'), ...right];
  return groups
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, '').toLowerCase())
    .join(':');
}

/** Finds out which address a request came from, past the proxies whose `X-Forwarded-For` is believed. */
export class ClientAddress {
  readonly #trusted: BlockList | undefined;

  constructor(trustedProxies: readonly string[]) {
    if (trustedProxies.length === 0) return;
    this.#trusted = new BlockList();
    for (const entry of trustedProxies) addTo(this.#trusted, entry);
  }

  of(remote: string, forwardedFor: string | undefined): string {
    if (!this.#trusted || forwardedFor === undefined || !this.#isTrusted(remote)) return remote;
    const hops = forwardedFor.split(',').map((hop) => hop.trim());
    let client = remote;
    for (const hop of hops.reverse()) {
      if (isIP(hop) === 0) return client;
      client = hop;
      if (!this.#isTrusted(hop)) return client;
    }
    return client;
  }

  #isTrusted(ip: string): boolean {
    const plain = ip.replace(/^::ffff:(?=\d+\.)/i, '');
    return this.#trusted?.check(plain, isIP(plain) === 6 ? 'ipv6' : 'ipv4') ?? false;
  }
}

function addTo(list: BlockList, entry: string): void {
  const [address = '', prefix] = entry.split('/');
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
  if (isIP(address) === 0) throw new Error(`trusted proxy "${entry}" is neither an address nor a block`);
  if (prefix === undefined) list.addAddress(address, family);
  else list.addSubnet(address, Number(prefix), family);
}
