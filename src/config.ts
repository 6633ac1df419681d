import { isIP } from 'node:net';
import { resolve } from 'node:path';
import { z } from 'zod';

/** Settings that may be logged. */
export interface Config {
  host: string;
  port: number;
  /** Origin under which clients reach Berth, without a trailing slash; derived from the request where unset. */
  publicUrl: string | undefined;
  dataDir: string;
  linkDir: string;
  /** Where volumes lie that are file systems of their own, and whether new ones are. */
  diskDir: string;
  diskLimits: 'auto' | 'hard' | 'soft';
  /** What instances print is kept there. */
  logDir: string;
  runtime: 'docker' | 'process';
  dockerHost: string | undefined;
  agentImage: string;
  /** Images that an agent may ask for besides that one. */
  agentImages: string[];
  /** Whether a `process` instance may use the shell and fetch tools. It has no isolation at all. */
  processTools: boolean;
  openaiBaseUrl: string | undefined;
  anthropicBaseUrl: string | undefined;
  /** Model of agents that name none: `provider/model`. */
  defaultModel: string;
  logLevel: string;
  corsOrigins: string[];
  /** Addresses or CIDR blocks whose `X-Forwarded-For` is believed. */
  trustedProxies: string[];
  /** Addresses and networks that no instance may reach, besides those of no public use. */
  egressDeny: string[];
  /** The registry that skills are installed from. */
  clawhubUrl: string;
  /** Security verdicts besides clean ones that do not keep a skill from being installed. */
  clawhubAllow: ('suspicious' | 'pending' | 'error')[];
  /** Events are forgotten after so many days. */
  eventsRetentionDays: number;
  /** Notifications are forgotten after so many days. */
  notificationsRetentionDays: number;
  /** Whom mails are from; unset where no mail server is set up. */
  smtpFrom: string | undefined;
  /** Hosts that webhooks and channels of notifications may be on although they are private: `host` or `host:port`. */
  webhookAllowPrivate: string[];
  /** How many instances are kept ready for agents that come. */
  poolSize: number;
  /** Memory of the host, where it is not what the host says; what of it is left to others; and the share of the rest that may be promised, in percent. */
  hostMemoryMib: number | undefined;
  memoryReserveMib: number | undefined;
  memoryOvercommit: number;
  /** How many containers may be starting at once. */
  startsAtOnce: number;
  /** The folder whose disk instances fill, and what has to be free there for one to start. */
  engineDataDir: string;
  diskReserveMib: number;
  /** How long a chat waits for an agent that is not ready. */
  readyTimeoutMs: number;
  /** How long an instance that took another's place must have run before the other is let go. */
  replaceProbationMs: number;
  /** How long a turn may keep its instance from being replaced. */
  replaceTurnTimeoutMs: number;
  /** How long a provider may stay silent, before its answer and within it. */
  providerStallTimeoutMs: number;
  /** How long an instance that Berth does not know, but whose labels say it is ours, is left alone. */
  orphanGraceMs: number;
  /** How long a deleted agent can be brought back; 0: not at all. */
  undeleteHours: number;
}

/** Settings that no logger is ever given. */
export interface Secrets {
  databaseUrl: string | undefined;
  adminApiKey: string | undefined;
  masterKey: string | undefined;
  masterKeyPrevious: string | undefined;
  openaiApiKey: string | undefined;
  anthropicApiKey: string | undefined;
  /** The mail server, with its password. */
  smtpUrl: string | undefined;
}

/** The environment as it is not: every mistake at once, by variable. Never carries a value. */
export class ConfigError extends Error {
  readonly problems: string[];

  constructor(problems: string[]) {
    super(
      `The environment has ${problems.length === 1 ? 'a mistake' : `${problems.length} mistakes`}:\n  ${problems.join('\n  ')}`,
    );
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`);
const url = (protocols: string[]) =>
  z
    .string()
    .refine(
      (text) => URL.canParse(text) && protocols.includes(new URL(text).protocol),
      `must be a URL beginning with ${protocols.map((p) => `${p}//`).join(' or ')}`,
    );
const flag = z.enum(['on', 'off'], { error: 'must be on or off' }).transform((text) => text === 'on');
const list = z.string().transform((text) =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean),
);
/** What agents use when a provider's key is set and DEFAULT_MODEL is not: the first provider with a key. */
const MODEL_OF_KEY = [
  ['OPENAI_API_KEY', 'openai/gpt-4.1-mini'],
  ['ANTHROPIC_API_KEY', 'anthropic/claude-sonnet-4-5'],
] as const;
const networks = list.refine(
  (entries) => entries.every(isNetwork),
  'must be addresses or networks separated by commas, such as 10.0.0.0/8 or 192.0.2.1',
);
const hosts = list.refine(
  (entries) => entries.every((entry) => /^[a-z0-9._-]+(:\d{1,5})?$|^[0-9a-f:]+$/i.test(entry)),
  'must be hosts separated by commas, such as hooks.internal, 10.0.0.5 or localhost:9000',
);
/** One plain address, with a name before it or not. */
const sender = z
  .string()
  .regex(
    /^(?:[^<>"\p{C}]{0,100}<[^\s<>@,;"]+@[^\s<>@,;"]+>|[^\s<>@,;"]+@[^\s<>@,;"]+)$/u,
    'must be an address, such as Berth <berth@example.com>',
  );
const RISKS = ['suspicious', 'pending', 'error'] as const;
const risks = list
  .refine(
    (words) => words.every((word) => RISKS.some((risk) => risk === word)),
    `must be of ${RISKS.join(', ')}, separated by commas`,
  )
  .transform((words) => RISKS.filter((risk) => words.includes(risk)));
const origins = list.refine(
  (entries) => entries.every(isOrigin),
  'must be * or origins separated by commas, such as https://app.example.com (lower case, no path, no slash at the end)',
);
/** 32 bytes, as `vault/master-key.ts` reads them. */
const masterKey = z
  .string()
  .regex(
    /^\s*(?:[0-9a-f]{64}|[\w+/-]{43}=?)\s*$/i,
    'must be 32 random bytes as base64 or hex; make them with: openssl rand -base64 32',
  );
/** What each provider needs; `llm/providers.ts` makes those that have it. */
const NEEDS_OF_PROVIDER: Record<string, readonly string[]> = {
  demo: [],
  openai: ['OPENAI_API_KEY', 'OPENAI_BASE_URL'],
  anthropic: ['ANTHROPIC_API_KEY'],
};
const modelName = z.string().regex(/^[a-z0-9_-]+\/\S+$/, 'must be provider/model, such as demo/echo');

/** Every setting. The table in docs/operations.md names the same ones: a test compares them. */
export const Environment = z.object({
  HOST: z.string().default('127.0.0.1'),
  PORT: integer(0, 65_535).default(8080),
  PUBLIC_URL: url(['http:', 'https:'])
    .transform((text) => text.replace(/\/+$/, ''))
    .optional(),
  DATA_DIR: z.string().default('./data'),
  LINK_DIR: z.string().optional(),
  DISK_DIR: z.string().optional(),
  DISK_LIMITS: z.enum(['auto', 'hard', 'soft'], { error: 'must be auto, hard or soft' }).default('auto'),
  LOG_DIR: z.string().optional(),
  RUNTIME: z.enum(['docker', 'process'], { error: 'must be docker or process' }).default('docker'),
  DOCKER_HOST: z.string().optional(),
  AGENT_IMAGE: z.string().default('berth-agent:latest'),
  AGENT_IMAGES: list.default([]),
  PROCESS_TOOLS: flag.default(false),
  OPENAI_BASE_URL: url(['http:', 'https:']).optional(),
  ANTHROPIC_BASE_URL: url(['http:', 'https:']).optional(),
  DEFAULT_MODEL: modelName.optional(),
  LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], {
      error: 'must be trace, debug, info, warn, error, fatal or silent',
    })
    .default('info'),
  CORS_ORIGINS: origins.default([]),
  TRUSTED_PROXIES: networks.default([]),
  EGRESS_DENY: networks.default([]),
  CLAWHUB_URL: url(['http:', 'https:']).default('https://clawhub.ai'),
  CLAWHUB_ALLOW: risks.default([]),
  EVENTS_RETENTION_DAYS: integer(1, 3_650).default(30),
  NOTIFICATIONS_RETENTION_DAYS: integer(1, 3_650).default(90),
  SMTP_FROM: sender.optional(),
  WEBHOOK_ALLOW_PRIVATE: hosts.default([]),
  POOL_SIZE: integer(0, 1_000).default(2),
  HOST_MEMORY_MIB: integer(64, 100_000_000).optional(),
  MEMORY_RESERVE_MIB: integer(0, 100_000_000).optional(),
  MEMORY_OVERCOMMIT: integer(50, 10_000).default(200),
  STARTS_AT_ONCE: integer(1, 1_000).default(8),
  ENGINE_DATA_DIR: z.string().default('/var/lib/docker'),
  DISK_RESERVE_MIB: integer(0, 100_000_000).default(512),
  READY_TIMEOUT_MS: integer(1, 600_000).default(60_000),
  REPLACE_PROBATION_MS: integer(0, 600_000).default(10_000),
  REPLACE_TURN_TIMEOUT_MS: integer(1_000, 3_600_000).default(60_000),
  PROVIDER_STALL_TIMEOUT_MS: integer(100, 600_000).default(60_000),
  ORPHAN_GRACE_MS: integer(0, 86_400_000).default(60_000),
  UNDELETE_HOURS: integer(0, 8_760).default(168),
  DATABASE_URL: url(['postgres:', 'postgresql:']).optional(),
  ADMIN_API_KEY: z.string().min(32, 'must have at least 32 characters').optional(),
  MASTER_KEY: masterKey.optional(),
  MASTER_KEY_PREVIOUS: masterKey.optional(),
  OPENAI_API_KEY: z.string().optional(),
  ANTHROPIC_API_KEY: z.string().optional(),
  SMTP_URL: url(['smtp:', 'smtps:']).optional(),
});

/** Reads the environment. An empty variable counts as unset. Throws `ConfigError` naming every mistake. */
export function readConfig(env: Record<string, string | undefined>): { config: Config; secrets: Secrets } {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = Environment.safeParse(present);
  const alone = parsed.error?.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`) ?? [];
  const problems = [...alone, ...checkTogether(present)];
  if (!parsed.success || problems.length > 0) throw new ConfigError(problems);
  const e = parsed.data;
  const dataDir = resolve(e.DATA_DIR);
  const linkDir = e.LINK_DIR === undefined ? resolve(dataDir, 'link') : resolve(e.LINK_DIR);
  return {
    config: {
      host: e.HOST,
      port: e.PORT,
      publicUrl: e.PUBLIC_URL,
      dataDir,
      linkDir,
      // Beside the links, which all processes of a host have in common, as they must have these.
      diskDir: e.DISK_DIR === undefined ? resolve(linkDir, '../disks') : resolve(e.DISK_DIR),
      diskLimits: e.DISK_LIMITS,
      logDir: e.LOG_DIR === undefined ? resolve(linkDir, '../logs') : resolve(e.LOG_DIR),
      runtime: e.RUNTIME,
      dockerHost: e.DOCKER_HOST,
      agentImage: e.AGENT_IMAGE,
      agentImages: e.AGENT_IMAGES,
      processTools: e.PROCESS_TOOLS,
      openaiBaseUrl: e.OPENAI_BASE_URL,
      anthropicBaseUrl: e.ANTHROPIC_BASE_URL,
      defaultModel: e.DEFAULT_MODEL ?? MODEL_OF_KEY.find(([key]) => e[key] !== undefined)?.[1] ?? 'demo/echo',
      logLevel: e.LOG_LEVEL,
      corsOrigins: e.CORS_ORIGINS,
      trustedProxies: e.TRUSTED_PROXIES,
      egressDeny: e.EGRESS_DENY,
      clawhubUrl: e.CLAWHUB_URL.replace(/\/+$/, ''),
      clawhubAllow: e.CLAWHUB_ALLOW,
      eventsRetentionDays: e.EVENTS_RETENTION_DAYS,
      notificationsRetentionDays: e.NOTIFICATIONS_RETENTION_DAYS,
      smtpFrom: e.SMTP_FROM,
      webhookAllowPrivate: e.WEBHOOK_ALLOW_PRIVATE,
      poolSize: e.POOL_SIZE,
      hostMemoryMib: e.HOST_MEMORY_MIB,
      memoryReserveMib: e.MEMORY_RESERVE_MIB,
      memoryOvercommit: e.MEMORY_OVERCOMMIT,
      startsAtOnce: e.STARTS_AT_ONCE,
      engineDataDir: e.ENGINE_DATA_DIR,
      diskReserveMib: e.DISK_RESERVE_MIB,
      readyTimeoutMs: e.READY_TIMEOUT_MS,
      replaceProbationMs: e.REPLACE_PROBATION_MS,
      replaceTurnTimeoutMs: e.REPLACE_TURN_TIMEOUT_MS,
      providerStallTimeoutMs: e.PROVIDER_STALL_TIMEOUT_MS,
      orphanGraceMs: e.ORPHAN_GRACE_MS,
      undeleteHours: e.UNDELETE_HOURS,
    },
    secrets: secretsOf(e),
  };
}

function secretsOf(e: z.infer<typeof Environment>): Secrets {
  return {
    databaseUrl: e.DATABASE_URL,
    adminApiKey: e.ADMIN_API_KEY,
    masterKey: e.MASTER_KEY,
    masterKeyPrevious: e.MASTER_KEY_PREVIOUS,
    openaiApiKey: e.OPENAI_API_KEY,
    anthropicApiKey: e.ANTHROPIC_API_KEY,
    smtpUrl: e.SMTP_URL,
  };
}

/** Whether only this machine can reach a server that listens there. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** What one variable says of another. Looks at the texts as they are, so that these mistakes are told with all others. */
function checkTogether(e: Partial<Record<string, string>>): string[] {
  const problems: string[] = [];
  if (e['RUNTIME'] === 'process' && e['HOST'] !== undefined && !isLoopback(e['HOST'])) {
    problems.push('RUNTIME process has no isolation, so HOST must be a loopback address (127.0.0.1, ::1 or localhost)');
  }
  if (e['MASTER_KEY_PREVIOUS'] !== undefined && e['MASTER_KEY'] === undefined) {
    problems.push('MASTER_KEY_PREVIOUS needs MASTER_KEY');
  }
  if (e['SMTP_URL'] !== undefined && e['SMTP_FROM'] === undefined) problems.push('SMTP_URL needs SMTP_FROM');
  // The process runtime uses no engine, and a shell may well have a DOCKER_HOST for other purposes.
  if (e['RUNTIME'] !== 'process' && e['DOCKER_HOST'] !== undefined && !isEngine(e['DOCKER_HOST'])) {
    problems.push('DOCKER_HOST must be unix:///path or tcp://host:port (no TLS, no named pipe)');
  }
  return [...problems, ...checkDefaultModel(e)];
}

function checkDefaultModel(e: Partial<Record<string, string>>): string[] {
  const model = e['DEFAULT_MODEL'];
  if (model === undefined || !modelName.safeParse(model).success) return [];
  const provider = Object.keys(NEEDS_OF_PROVIDER).find((name) => model.startsWith(`${name}/`));
  if (provider === undefined) {
    return [`DEFAULT_MODEL names no provider that there is: ${Object.keys(NEEDS_OF_PROVIDER).join(', ')}`];
  }
  const needs = NEEDS_OF_PROVIDER[provider] ?? [];
  if (needs.length === 0 || needs.some((name) => e[name] !== undefined)) return [];
  return [`DEFAULT_MODEL names provider ${provider}, which needs ${needs.join(' or ')}`];
}

/** What `runtime/docker/engine.ts` can reach: a socket by its path, or plain HTTP. */
function isEngine(host: string): boolean {
  if (host.startsWith('unix://')) return host.startsWith('unix:///');
  if (host.startsWith('/')) return true;
  if (!URL.canParse(host)) return false;
  const { protocol, hostname } = new URL(host);
  return ['tcp:', 'http:'].includes(protocol) && hostname !== '';
}

/** As browsers send it: compared letter by letter. Schemes that the URL standard gives no origin are those of extensions and apps. */
function isOrigin(entry: string): boolean {
  if (entry === '*') return true;
  if (!URL.canParse(entry)) return false;
  const { origin } = new URL(entry);
  return origin === entry || (origin === 'null' && /^[a-z][\w+.-]*:\/\/[\w.-]+$/.test(entry));
}

function isNetwork(entry: string): boolean {
  const [address = '', bits, ...rest] = entry.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128));
}
