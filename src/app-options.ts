import type { EventTimes } from './app-events.js';
import type { NotificationTimes } from './app-notifications.js';
import type { Config, Secrets } from './config.js';
import type { Database } from './db/open.js';
import type { ClawHubOptions } from './clawhub/clawhub.js';
import type { HostRoom } from './domains/deployments/admission.js';
import type { RestJobOptions } from './domains/deployments/deployments.jobs.js';
import type { Installation } from './domains/installation/installation.js';
import type { LoggingOptions } from './domains/logs/logging.js';
import type { FileTimes } from './gateway/files.js';
import type { GatewayClientOptions } from './gateway/gateway.js';
import type { EdgeOptions } from './http/edge.js';
import type { StreamOptions } from './http/sse.js';
import type { Log } from './lib/log.js';
import type { ReconcilerOptions } from './reconciler/reconciler.js';
import type { Runtime } from './runtime/runtime.js';
import type { KeyFiles } from './vault/key-files.js';
import type { Vault } from './vault/vault.js';

/** What the system is built from: the opened outside things, and what tests set otherwise than usual. */
export interface AppOptions extends EventTimes, NotificationTimes {
  config: Config;
  secrets: Pick<Secrets, 'openaiApiKey' | 'anthropicApiKey'> & Partial<Pick<Secrets, 'smtpUrl'>>;
  adminKey: string;
  database: Database;
  vault: Vault;
  /** Where the master key is kept; absent where it comes from the environment. */
  keyFiles?: KeyFiles | undefined;
  installation: Installation;
  runtime: Runtime;
  /** Names this process in leases, sockets and rows. */
  processId: string;
  version: string;
  log: Log;
  /** Allowances per address, where they are not to be the usual ones. */
  rates?: EdgeOptions['rates'];
  /** Keep-alive of streams, and what a gateway may take in a turn, where they are not to be the usual ones. */
  stream?: StreamOptions;
  gateway?: GatewayClientOptions['limits'];
  /** How long the registry of skills may take, where it is not to be as usual. */
  clawhub?: ClawHubOptions['limits'];
  /** How long files may stand still, where it is not to be as usual: the times of the link's side, and the pace of clients. */
  files?: { times?: Partial<FileTimes>; pace?: EdgeOptions['pace'] };
  /** How long another process is silent before its turns are taken over, where it is not to be as usual. */
  turns?: { deadAfterS: number };
  /** When idle deployments rest, where it is not to be as usual. */
  rest?: Pick<RestJobOptions, 'everyMs' | 'pausedS'>;
  /** What the host has, where it is not to be measured. */
  host?: () => Promise<HostRoom>;
  /** How often what runs is measured, and what collecting logs may take, where it is not to be as usual. */
  vitals?: { everyS: number; lookEveryMs: number };
  logs?: LoggingOptions['limits'];
  /** How often heartbeats, and what is to happen to snapshots by itself, are looked at, where it is not to be as usual. */
  heartbeats?: { everyMs: number };
  snapshots?: { everyMs: number };
  /** Intervals of the reconciler, where they are not to be the usual ones. */
  reconciler?: Pick<ReconcilerOptions, 'passEveryMs' | 'sweepEveryMs' | 'concurrency' | 'clock'>;
}
