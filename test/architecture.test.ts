import { describe, expect, test } from 'vitest';
import { createApi } from '../src/api.js';
import { RESERVED_NAMES } from '../src/domains/agents/names.js';
import { HttpMetrics } from '../src/http/metrics.js';
import { packageOf, type Source, sourcesIn } from './support/sources.js';

// The rules of the house (ARCHITECTURE.md; docs/decisions/0001 says where and why they differ from the first design). A rule that is in
// the way is changed here, with a decision that says why; it is not worked around.

const SRC = sourcesIn('src');
const MIGRATIONS = sourcesIn('migrations');
const GATEWAY = sourcesIn('agent-image/src');

/** What a room may import. `type` = `import type` only, since the other side is handed over when the system is built. */
const ROOMS: Record<string, Record<string, 'value' | 'type'>> = {
  domains: {
    http: 'value',
    db: 'value',
    events: 'value',
    vault: 'type',
    runtime: 'type',
    clawhub: 'type',
    gateway: 'type',
    link: 'type',
    llm: 'type',
    lib: 'value',
  },
  reconciler: { domains: 'type', db: 'type', events: 'type', runtime: 'type', link: 'type', gateway: 'type', lib: 'value' },
  events: { db: 'type', lib: 'value' },
  db: { domains: 'type', events: 'value', lib: 'value', migrations: 'value' },
  gateway: { link: 'type', lib: 'value' },
  http: { lib: 'value' },
  runtime: { lib: 'value' },
  link: { lib: 'value' },
  llm: { lib: 'value' },
  clawhub: { link: 'value', lib: 'value' },
  vault: { lib: 'value' },
  lib: {},
};

/** What one domain may see of another. Its main file is its operations; its shapes appear inside the answers of others. */
const SEEN_OF_A_DOMAIN: [pattern: RegExp, kind: 'value' | 'type'][] = [
  [/^src\/domains\/([^/]+)\/\1\.ts$/, 'type'],
  [/^src\/domains\/[^/]+\/[^/]+\.table\.ts$/, 'type'],
  [/^src\/domains\/[^/]+\/[^/]+\.schema\.ts$/, 'value'],
  [/^src\/domains\/agents\/names\.ts$/, 'value'],
];

/** The only files that may import a package. What is not here may be imported nowhere. Types alone may come from kysely anywhere in a domain. */
const HOMES: Record<string, RegExp> = {
  hono: /^src\/(http\/|api\.ts|app\.ts|domains\/.*\.routes\.ts)/,
  '@hono/zod-openapi': /^src\/(http\/|api\.ts|domains\/.*\.(routes|schema)\.ts|domains\/agents\/names\.ts)/,
  '@hono/node-server': /^src\/main\.ts/,
  'swagger-ui-dist': /^src\/http\//,
  kysely: /^(migrations\/|src\/db\/|src\/events\/(outbox|events\.table)\.ts|src\/domains\/.*\.(store|table)\.ts)/,
  pg: /^src\/db\//,
  '@electric-sql/pglite': /^src\/db\//,
  dockerode: /^src\/runtime\/docker\//,
  'libsodium-wrappers': /^src\/vault\//,
  'gpt-tokenizer': /^src\/domains\/context\//,
  'eventsource-parser': /^src\/(gateway|llm)\//,
  cockatiel: /^src\/llm\//,
  'rate-limiter-flexible': /^src\/http\//,
  'prom-client': /^src\/http\/metrics\.ts/,
  diff: /^src\/domains\/templates\//,
  'modern-tar': /^src\/domains\/(skills|snapshots)\//,
  croner: /^src\/domains\/snapshots\//,
  nodemailer: /^src\/domains\/notifications\//,
  yauzl: /^src\/domains\/skills\//,
  yazl: /^src\/domains\/skills\//,
  ws: /^src\/http\//,
  yaml: /^src\/domains\/skills\//,
  pino: /^src\/lib\/log\.ts/,
  mime: /^src\/domains\/files\//,
  zod: /^src\/(config\.ts|http\/|runtime\/docker\/)/,
};

/** Which domain's queries may change a table. Everybody may read. */
const OWNERS: Record<string, string> = {
  agents: 'agents',
  egress_traffic: 'traffic',
  agent_configs: 'configs',
  api_keys: 'api-keys',
  audit_entries: 'audit',
  audit_heads: 'audit',
  audit_keys: 'audit',
  audit_open: 'audit',
  audit_receipts: 'audit',
  conversations: 'chat',
  turns: 'chat',
  turn_events: 'chat',
  forgotten_conversations: 'chat',
  deployments: 'deployments',
  instances: 'deployments',
  deployment_revisions: 'deployments',
  idempotency_keys: 'idempotency',
  installation: 'installation',
  log_segments: 'logs',
  log_streams: 'logs',
  notification_channels: 'notifications',
  notification_deliveries: 'notifications',
  notification_mails: 'notifications',
  notification_readers: 'notifications',
  notification_rule_channels: 'notifications',
  notification_rules: 'notifications',
  notifications: 'notifications',
  plugins: 'plugins',
  agent_plugins: 'plugins',
  heartbeats: 'heartbeats',
  heartbeat_runs: 'heartbeats',
  processes: 'installation',
  skills: 'skills',
  skill_packages: 'skills',
  skill_versions: 'skills',
  agent_skills: 'skills',
  snapshots: 'snapshots',
  kept_lines: 'snapshots',
  restores: 'snapshots',
  snapshot_schedules: 'snapshots',
  templates: 'templates',
  template_variables: 'templates',
  secret_stores: 'secrets',
  secrets: 'secrets',
  tiers: 'tiers',
  usage: 'usage',
  usage_months: 'usage',
  deletions: 'users',
  users: 'users',
  vault_keyrings: 'vault-rotation',
  vault_rotations: 'vault-rotation',
  rollouts: 'rollouts',
  rollout_members: 'rollouts',
  socket_tickets: 'events',
  webhook_attempts: 'webhooks',
  webhook_deliveries: 'webhooks',
  webhooks: 'webhooks',
  events: 'events',
  event_counters: 'events',
  event_horizon: 'events',
};

const FILE_LINES = 400;
const FUNCTION_LINES = 60;

/** Every finding of a rule, as `file: what`. */
function findings(sources: Source[], look: (source: Source) => string[]): string[] {
  return sources.flatMap((source) => look(source).map((what) => `${source.path}: ${what}`));
}

const roomOf = (path: string): string | undefined => /^src\/([^/]+)\//.exec(path)?.[1] ?? /^(migrations)\//.exec(path)?.[1];
const isFile = (target: string): boolean => /^(src|migrations|agent-image)\//.test(target);

describe('imports', () => {
  test('a room imports only what the table gives it', () => {
    const wrong = findings(SRC, (source) => {
      const room = roomOf(source.path);
      if (room === undefined) return []; // main, app, api and config put the rooms together
      return source.imports
        .filter(({ target }) => isFile(target) && roomOf(target) !== room)
        .filter(({ target, typeOnly }) => {
          const allowed = ROOMS[room]?.[roomOf(target) ?? ''];
          return allowed === undefined || (allowed === 'type' && !typeOnly && !isError(source, target));
        })
        .map(({ target, typeOnly }) => `imports ${typeOnly ? 'types of ' : ''}${target}`);
    });
    expect(wrong).toEqual([]);
  });

  test('every room is in the table', () => {
    expect([...new Set(SRC.map(({ path }) => roomOf(path)).filter((room) => room !== undefined))].toSorted()).toEqual(
      Object.keys(ROOMS).toSorted(),
    );
  });

  test('a domain sees of another its operations as types, and its shapes', () => {
    const wrong = findings(SRC, (source) => {
      if (source.domain === undefined) return [];
      const others = source.imports.filter(
        ({ target }) => target.startsWith('src/domains/') && !target.startsWith(`src/domains/${source.domain}/`),
      );
      return others
        .filter(
          ({ target, typeOnly }) =>
            !SEEN_OF_A_DOMAIN.some(([pattern, kind]) => pattern.test(target) && (kind === 'value' || typeOnly)),
        )
        .map(({ target }) => `imports ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  test('packages stay in their homes', () => {
    const wrong = findings([...SRC, ...MIGRATIONS], (source) =>
      source.imports
        .filter(({ target }) => !isFile(target) && !target.startsWith('node:'))
        .filter(({ target, typeOnly }) => {
          const name = packageOf(target);
          if (name === 'kysely' && typeOnly && source.domain !== undefined) return false;
          return !HOMES[name]?.test(source.path);
        })
        .map(({ target }) => `imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  test('the gateway in the image imports nothing of Berth, and next to nothing else', () => {
    const bundled = ['eventsource-parser', 'modern-tar', 'yauzl', 'yazl'];
    const wrong = findings(GATEWAY, ({ imports }) =>
      imports
        .map(({ target }) => target)
        .filter((target) => !target.startsWith('node:') && !target.startsWith('agent-image/src/') && !bundled.includes(target)),
    );
    expect(wrong).toEqual([]);
  });

  test('no default exports, no barrels', () => {
    const wrong = findings([...SRC, ...MIGRATIONS, ...GATEWAY], ({ lines }) =>
      lines.filter((line) => /^export (default\b|\*|\{[^}]*\} from)/.test(line)),
    );
    expect(wrong).toEqual([]);
  });
});

describe('the database', () => {
  test('every exported query names its tenant right after the database, or says that it crosses tenants', () => {
    const stores = SRC.filter(({ path }) => path.endsWith('.store.ts') || path === 'src/events/outbox.ts');
    const wrong = findings(stores, ({ text }) =>
      [...text.matchAll(/^export (?:async )?function (\w+)\(\s*((?:[^()]|\([^()]*\))*)\)/gm)]
        .filter(
          ([, name = '', parameters = '']) =>
            !name.endsWith('AcrossTenants') && !/^(db|trx): [^,]+,\s*userId: string( \| null)?\b/.test(parameters),
        )
        .map(([, name]) => `${name}`),
    );
    expect(stores.length).toBeGreaterThan(5);
    expect(wrong).toEqual([]);
  });

  test('only the owner of a table changes it', () => {
    const wrong = findings(SRC, ({ path, domain = roomOf(path), text }) =>
      [...text.matchAll(/\.(insertInto|updateTable|deleteFrom|mergeInto)\('([a-z_]+)/g)]
        .filter(([, , table = '']) => OWNERS[table] !== domain)
        .map(([, verb, table]) => `${verb} ${table}`),
    );
    expect(wrong).toEqual([]);
  });
});

describe('the edges of the process', () => {
  test.each(['process.env', 'process.exit('])('%s is in main.ts alone', (word) => {
    const elsewhere = SRC.filter(
      ({ path, text }) => path !== 'src/main.ts' && path !== 'src/runtime/process/shim.mjs' && text.includes(word),
    );
    expect(elsewhere.map(({ path }) => path)).toEqual([]);
  });

  test('no name can be taken for a word of a path', () => {
    const api = createApi({ metrics: new HttpMetrics(), publicUrl: undefined, version: '0' } as unknown as Parameters<
      typeof createApi
    >[0]);
    const paths = [...new Set(api.routes.map(({ path }) => path))].map((path) => path.split('/'));
    expect(paths.length).toBeGreaterThan(20);
    const words = paths.flatMap((path) => wordsWhereANameStands(path, paths));
    expect(words.filter((word) => !RESERVED_NAMES.has(word))).toEqual([]);
  });
});

describe('size', () => {
  const ALL = [...SRC, ...GATEWAY, ...sourcesIn('scripts')];

  test(`no file is longer than ${FILE_LINES} lines`, () => {
    expect(findings(ALL, ({ lines }) => (lines.length > FILE_LINES ? [`${lines.length} lines`] : []))).toEqual([]);
  });

  test(`no function is longer than ${FUNCTION_LINES} lines, but those that are lists`, () => {
    const lists = /\.routes\.ts$|^src\/(app|api)\.ts$/;
    const wrong = findings(
      ALL.filter(({ path }) => !lists.test(path)),
      (source) =>
        source.functions.filter(({ lines }) => lines > FUNCTION_LINES).map(({ name, lines }) => `${lines} lines: ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  test('a file is named after what is in it', () => {
    expect(ALL.filter(({ name }) => /util|helper|manager|misc|common/.test(name)).map(({ path }) => path)).toEqual([]);
  });
});

/** An error that a domain throws at its caller is part of its operations: it is imported to be told apart. */
function isError(source: Source, target: string): boolean {
  const names =
    new RegExp(`import \\{([^}]*)\\} from '[^']*/${target.split('/').at(-1)?.replace('.ts', '.js')}'`).exec(source.text)?.[1] ??
    '';
  const values = names
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '' && !name.startsWith('type '));
  return values.length > 0 && values.every((name) => /(Error|Lost)$/.test(name));
}

/** The literal segments of other paths at the places where this one has a name. */
function wordsWhereANameStands(path: string[], paths: string[][]): string[] {
  const matches = (a = '', b = ''): boolean => a === b || a.startsWith(':') || b.startsWith(':');
  return path.flatMap((segment, at) => {
    if (!/^:(user|agent)\b/.test(segment)) return [];
    const siblings = paths.filter((other) => other.length > at && path.slice(0, at).every((part, i) => matches(part, other[i])));
    return siblings.map((other) => other[at] ?? '').filter((word) => word !== '' && !word.startsWith(':') && word !== '*');
  });
}
