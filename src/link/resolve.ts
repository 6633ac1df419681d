import { Resolver } from 'node:dns/promises';
import { BlockList, connect, isIP, isIPv4, type Socket } from 'node:net';
import { AppError, messageOf } from '../lib/errors.js';
import { canonicalAddress, classifyAddress, hostAddresses } from '../lib/addresses.js';

/** An address that was looked at and may be dialled: dial it, never the name again. */
export interface CheckedAddress {
  address: string;
  family: 4 | 6;
}

export interface ResolveOptions {
  /** Kept by callers that resolve often; it must speak to name servers itself (c-ares), not to the host's own resolver. */
  resolver?: Resolver;
  timeoutMs?: number;
  /** Answers beyond this number are not looked at. */
  maxAnswers?: number;
  /** Addresses and networks that are refused besides those of no public use, such as the host's address behind a NAT. */
  deny?: BlockList;
}

/** How long the other family may take once one has answered. */
const OTHER_FAMILY_MS = 100;

/** A resolver of its own: bounded waits, and no wait that blocks a thread. */
export function createResolver(servers?: string[]): Resolver {
  const resolver = new Resolver({ timeout: 1_500, tries: 2 });
  if (servers) resolver.setServers(servers);
  return resolver;
}

/** Networks and addresses written as `1.2.3.4`, `10.0.0.0/8` or `2001:db8::/32`. */
export function parseDenied(entries: string[]): BlockList {
  const list = new BlockList();
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/');
    const family = isIPv4(address) ? 'ipv4' : 'ipv6';
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return list;
}

/** Lower case without the root's dot, or undefined where `host` is neither a DNS name in ASCII nor an address. */
export function normalHost(host: string): string | undefined {
  const name = host.toLowerCase().replace(/\.$/, '');
  if (isIP(name) !== 0) return name.includes('%') ? undefined : name;
  if (name.length === 0 || name.length > 253 || !/^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/.test(name)) return undefined;
  // `127.1`, `0x7f.1` and the like are addresses to some programs; as names they cannot exist.
  return /(^|\.)(\d+|0x[0-9a-f]*)$/.test(name) ? undefined : name;
}

/** Why an address may not be dialled on behalf of somebody else, or undefined. */
export function addressRefusal(address: string, deny?: BlockList): string | undefined {
  const kind = classifyAddress(address);
  if (kind !== 'public') return `a ${kind} address`;
  if (hostAddresses().has(canonicalAddress(address))) return 'an address of the host itself';
  if (deny?.check(address, isIPv4(address) ? 'ipv4' : 'ipv6')) return 'an address that the operator denies';
  return undefined;
}

/**
 * The addresses of `host` that may be dialled, IPv4 first. Throws `forbidden` when there are only others, `upstream_error` when
 * the name has none, `timeout` when no name server answers in time.
 */
export async function resolveChecked(host: string, options: ResolveOptions = {}): Promise<CheckedAddress[]> {
  const name = normalHost(host);
  if (name === undefined) throw new AppError('invalid_request', 'not a host name or address');
  const found = isIP(name) === 0 ? await lookUp(name, options) : [name];
  const allowed: CheckedAddress[] = [];
  let refusal: string | undefined;
  for (const address of found.slice(0, options.maxAnswers ?? 16)) {
    const why = addressRefusal(address, options.deny);
    if (why === undefined) allowed.push({ address, family: isIPv4(address) ? 4 : 6 });
    else refusal ??= why;
  }
  if (allowed.length > 0) return allowed.sort((a, b) => a.family - b.family);
  if (refusal) throw new AppError('forbidden', `${name} has ${refusal}`);
  throw new AppError('upstream_error', `${name} has no address`);
}

export interface DialOptions {
  /** For each address; the whole takes no longer than twice that. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** A connection to the first of the addresses that answers. The addresses come from `resolveChecked`; nothing is looked up here. */
export async function dialChecked(addresses: CheckedAddress[], port: number, options: DialOptions = {}): Promise<Socket> {
  const timeoutMs = options.timeoutMs ?? 5_000;
  const endMs = performance.now() + 2 * timeoutMs;
  let last: unknown = new AppError('timeout', 'no address answered in time');
  for (const address of addresses) {
    const leftMs = Math.min(timeoutMs, endMs - performance.now());
    if (leftMs <= 0) break;
    options.signal?.throwIfAborted();
    try {
      return await dialOne(address, port, leftMs, options.signal);
    } catch (error) {
      if (error instanceof AppError && error.code === 'forbidden') throw error;
      last = error;
    }
  }
  if (last instanceof AppError) throw last;
  throw new AppError('upstream_error', `could not connect: ${messageOf(last)}`, { cause: last });
}

function dialOne(to: CheckedAddress, port: number, timeoutMs: number, signal: AbortSignal | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: to.address, port, family: to.family, allowHalfOpen: true, noDelay: true });
    const fail = (error: unknown) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.destroy();
      reject(error);
    };
    const onAbort = () => fail(signal?.reason);
    const timer = setTimeout(() => fail(new AppError('timeout', 'no answer in time')), timeoutMs);
    signal?.addEventListener('abort', onAbort, { once: true });
    // Stays for good, so that a connection that fails while it changes hands ends nothing but itself.
    socket.on('error', fail);
    socket.once('connect', () => {
      // A route may make the host answer for addresses that no interface shows; both ends are then the same.
      if (socket.localAddress === socket.remoteAddress) return fail(new AppError('forbidden', 'an address of the host itself'));
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      resolve(socket);
    });
  });
}

async function lookUp(name: string, options: ResolveOptions): Promise<string[]> {
  const resolver = options.resolver ?? createResolver();
  const timeoutMs = options.timeoutMs ?? 5_000;
  const answers: Record<'v4' | 'v6', string[] | undefined> = { v4: undefined, v6: undefined };
  const failures: NodeJS.ErrnoException[] = [];
  const failed = (error: NodeJS.ErrnoException) => (failures.push(error), []);
  const v4 = resolver.resolve4(name).catch(failed);
  const v6 = resolver.resolve6(name).catch(failed);
  let timer: NodeJS.Timeout | undefined;
  const deadline = (ms: number) => new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  const asked = [v4.then((found) => void (answers.v4 = found)), v6.then((found) => void (answers.v6 = found))];
  await Promise.race([...asked, deadline(timeoutMs)]);
  clearTimeout(timer);
  const hasSome = (answers.v4 ?? answers.v6 ?? []).length > 0;
  await Promise.race([Promise.all(asked), deadline(hasSome ? OTHER_FAMILY_MS : timeoutMs)]);
  clearTimeout(timer);
  const found = [...(answers.v4 ?? []), ...(answers.v6 ?? [])];
  if (found.length === 0 && isNoAnswer(answers, failures)) throw new AppError('timeout', `no name server answered for ${name}`);
  return found;
}

function isNoAnswer(answers: Record<'v4' | 'v6', string[] | undefined>, failures: NodeJS.ErrnoException[]): boolean {
  if (answers.v4 === undefined || answers.v6 === undefined) return true;
  return failures.some((error) => error.code !== 'ENOTFOUND' && error.code !== 'ENODATA');
}
