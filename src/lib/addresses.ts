import { isIP, isIPv4, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

/** What an address is for. Only `public` ones may be dialled on behalf of an instance. */
export type AddressClass =
  | 'public'
  | 'this-network'
  | 'private'
  | 'loopback'
  | 'link-local'
  | 'cgnat'
  | 'metadata'
  | 'multicast'
  | 'broadcast'
  | 'reserved'
  | 'documentation'
  | 'benchmarking'
  | 'mapped'
  | 'translated'
  | 'tunnel'
  | 'invalid';

/**
 * Special-purpose addresses, the narrower before the wider: https://www.iana.org/assignments/iana-ipv4-special-registry and
 * …/iana-ipv6-special-registry, and the metadata services of large clouds, some of which sit on public addresses.
 */
const RANGES: [cidr: string, is: AddressClass][] = [
  ['169.254.169.254/32', 'metadata'],
  ['169.254.170.0/24', 'metadata'],
  ['168.63.129.16/32', 'metadata'],
  ['100.100.100.200/32', 'metadata'],
  ['192.0.0.192/32', 'metadata'],
  ['0.0.0.0/8', 'this-network'],
  ['10.0.0.0/8', 'private'],
  ['100.64.0.0/10', 'cgnat'],
  ['127.0.0.0/8', 'loopback'],
  ['169.254.0.0/16', 'link-local'],
  ['172.16.0.0/12', 'private'],
  ['192.0.0.0/24', 'reserved'],
  ['192.0.2.0/24', 'documentation'],
  ['192.88.99.0/24', 'tunnel'],
  ['192.168.0.0/16', 'private'],
  ['198.18.0.0/15', 'benchmarking'],
  ['198.51.100.0/24', 'documentation'],
  ['203.0.113.0/24', 'documentation'],
  ['224.0.0.0/4', 'multicast'],
  ['255.255.255.255/32', 'broadcast'],
  ['240.0.0.0/4', 'reserved'],
  ['fd00:ec2::/32', 'metadata'],
  ['fd20:ce::254/128', 'metadata'],
  ['::/128', 'this-network'],
  ['::1/128', 'loopback'],
  ['::ffff:0:0/96', 'mapped'],
  ['::ffff:0:0:0/96', 'translated'],
  ['::/96', 'mapped'],
  ['64:ff9b::/96', 'translated'],
  ['64:ff9b:1::/48', 'translated'],
  ['fc00::/7', 'private'],
  ['fe80::/10', 'link-local'],
  ['fec0::/10', 'private'],
  ['ff00::/8', 'multicast'],
  ['2001::/32', 'tunnel'],
  ['2001:2::/48', 'benchmarking'],
  ['2001:db8::/32', 'documentation'],
  ['2001::/23', 'reserved'],
  ['2002::/16', 'tunnel'],
  ['3fff::/20', 'documentation'],
  // Nothing outside of 2000::/3 is routed on the internet; what is left inside of it is public.
  ['2000::/3', 'public'],
  ['::/0', 'reserved'],
];

interface Range {
  family: 4 | 6;
  prefix: bigint;
  shift: bigint;
  is: AddressClass;
}

const TABLE: Range[] = RANGES.map(([cidr, is]) => {
  const [address = '', bits = ''] = cidr.split('/');
  const family = isIPv4(address) ? 4 : 6;
  const shift = BigInt((family === 4 ? 32 : 128) - Number(bits));
  return { family, prefix: valueOf(address) >> shift, shift, is };
});

/** Intra-site tunnels write an IPv4 address into the last 32 bits, behind 0:5efe or 200:5efe (RFC 5214). */
const ISATAP = [0x0000_5efen, 0x0200_5efen];

/** What `ip` is for, by the address alone. Anything but a plain IPv4 or IPv6 address is `invalid`, with a zone too. */
export function classifyAddress(ip: string): AddressClass {
  if (isIP(ip) === 0 || ip.includes('%')) return 'invalid';
  const family = isIPv4(ip) ? 4 : 6;
  const value = valueOf(ip);
  if (family === 6 && ISATAP.includes((value >> 32n) & 0xffff_ffffn)) return 'tunnel';
  const range = TABLE.find((candidate) => candidate.family === family && value >> candidate.shift === candidate.prefix);
  return range?.is ?? 'public';
}

/** The same text for all spellings of one address. */
export function canonicalAddress(ip: string): string {
  const bare = ip.replace(/%.*$/, '');
  return `${isIPv4(bare) ? 4 : 6}:${valueOf(bare).toString(16)}`;
}

/** Every address that this host has on an interface, in canonical form. */
export function hostAddresses(): Set<string> {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return new Set(all.map((entry) => canonicalAddress(entry.address)));
}

function valueOf(ip: string): bigint {
  if (isIPv4(ip)) return ip.split('.').reduce((value, part) => (value << 8n) | BigInt(part), 0n);
  if (!isIPv6(ip)) throw new RangeError('not an address');
  const [left = '', right] = ip.split('::');
  const head = groupsOf(left);
  const tail = right === undefined ? [] : groupsOf(right);
  const gap = Array<bigint>(8 - head.length - tail.length).fill(0n);
  return [...head, ...gap, ...tail].reduce((value, group) => (value << 16n) | group, 0n);
}

function groupsOf(text: string): bigint[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (!group.includes('.')) return [BigInt(`0x${group}`)];
    const v4 = valueOf(group);
    return [v4 >> 16n, v4 & 0xffffn];
  });
}
