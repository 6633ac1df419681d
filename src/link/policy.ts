import { isIP } from 'node:net';
import { AppError } from '../lib/errors.js';
import { normalHost } from './resolve.js';

/** Where an instance may connect to. Private addresses are out of reach in every mode. */
export type EgressPolicy =
  | { mode: 'none' }
  | { mode: 'open'; ports?: number[] | undefined }
  | {
      mode: 'allowlist';
      /** Exact names or addresses, or `*.suffix` for every name under it (not the suffix itself). */
      hosts: string[];
      ports?: number[] | undefined;
    };

export interface Target {
  host: string;
  port: number;
}

const USUAL_PORTS = [80, 443];

/** The target of `host:port` or `[v6]:port`, by the narrow grammar of a proxy request. */
export function parseTarget(authority: string, defaultPort?: number): Target {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^[\]:@/\s]+))(?::(\d{1,5}))?$/.exec(authority);
  const host = normalHost(match?.[1] ?? match?.[2] ?? '');
  const port = match?.[3] === undefined ? defaultPort : Number(match[3]);
  const isBracketed = match?.[1] !== undefined;
  if (host === undefined || port === undefined || port < 1 || port > 65_535 || isBracketed !== (isIP(host) === 6)) {
    throw new AppError('invalid_request', 'the target must be host:port');
  }
  return { host, port };
}

/** Throws `forbidden`, saying why, where the policy does not let an instance connect to the target. */
export function checkPolicy(policy: EgressPolicy, target: Target): void {
  if (policy.mode === 'none') throw new AppError('forbidden', 'this instance has no way out to the internet');
  const ports = policy.ports ?? USUAL_PORTS;
  if (!ports.includes(target.port)) throw new AppError('forbidden', `port ${target.port} is not allowed`);
  if (policy.mode === 'open') return;
  if (!policy.hosts.some((pattern) => matchesHost(pattern, target.host))) {
    throw new AppError('forbidden', `${target.host} is not among the allowed hosts`);
  }
}

function matchesHost(pattern: string, host: string): boolean {
  if (!pattern.startsWith('*.')) return normalHost(pattern) === host;
  const suffix = normalHost(pattern.slice(2));
  return suffix !== undefined && isIP(host) === 0 && host.endsWith(`.${suffix}`);
}
