import { join } from 'node:path';

/** Where the gateway listens besides the link: a TCP address or the path of a unix socket. */
export type ListenAddress = { host: string; port: number } | { path: string };

/** Everything the gateway takes from its environment. None of it is secret: the token lies in a file of the link folder. */
export interface Settings {
  linkDir: string;
  dataDir: string;
  instanceId: string;
  /** Port of the forward proxy for programs that the shell tool starts; undefined: none. */
  proxyPort: number | undefined;
  shell: boolean;
  fetch: boolean;
  listen: ListenAddress | undefined;
}

/** Reads the settings, each with the default that holds inside the image. Throws with the variable's name on a bad value. */
export function readSettings(env: Record<string, string | undefined>): Settings {
  return {
    linkDir: env['BERTH_LINK_DIR'] || '/run/berth',
    dataDir: env['BERTH_DATA_DIR'] || '/data',
    instanceId: env['BERTH_INSTANCE'] || 'unnamed',
    proxyPort: portOrOff('BERTH_PROXY_PORT', env['BERTH_PROXY_PORT'], 3128),
    shell: onOrOff('BERTH_SHELL', env['BERTH_SHELL']),
    fetch: onOrOff('BERTH_FETCH', env['BERTH_FETCH']),
    listen: listenAddress(env['BERTH_GATEWAY_LISTEN']),
  };
}

/** The file that holds the instance's token. */
export function tokenPath(settings: Settings): string {
  return join(settings.linkDir, 'token');
}

function onOrOff(name: string, value: string | undefined): boolean {
  if (value === undefined || value === '' || value === 'on') return true;
  if (value === 'off') return false;
  throw new Error(`${name} must be on or off`);
}

function portOrOff(name: string, value: string | undefined, otherwise: number): number | undefined {
  if (value === undefined || value === '') return otherwise;
  if (value === 'off') return undefined;
  return port(name, value);
}

function port(name: string, value: string): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 0 || number > 65_535) throw new Error(`${name} must hold a port number`);
  return number;
}

function listenAddress(value: string | undefined): ListenAddress | undefined {
  if (value === undefined || value === '' || value === 'off') return undefined;
  if (value.startsWith('/')) return { path: value };
  const colon = value.lastIndexOf(':');
  if (colon <= 0) throw new Error('BERTH_GATEWAY_LISTEN must be host:port or the path of a unix socket');
  return { host: value.slice(0, colon).replace(/^\[|\]$/g, ''), port: port('BERTH_GATEWAY_LISTEN', value.slice(colon + 1)) };
}
