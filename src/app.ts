import { createApi } from './api.js';
import type { Config, Secrets } from './config.js';
import type { Database } from './db/open.js';
import { Agents } from './domains/agents/agents.js';
import { AgentModels } from './domains/agents/models.js';
import { Assembly } from './domains/assembly/assembly.js';
import { ApiKeys } from './domains/api-keys/api-keys.js';
import { Chat } from './domains/chat/chat.js';
import { settleTurnsJob } from './domains/chat/chat.jobs.js';
import { Completions } from './domains/chat/completions.js';
import { Deployments } from './domains/deployments/deployments.js';
import { DeploymentWork } from './domains/deployments/work.js';
import { Health } from './domains/health/health.js';
import { Idempotency } from './domains/idempotency/idempotency.js';
import { pruneIdempotencyJob } from './domains/idempotency/idempotency.jobs.js';
import { heartbeatJob, type Installation, signOff, takeUid } from './domains/installation/installation.js';
import { Logs } from './domains/logs/logs.js';
import { Tiers } from './domains/tiers/tiers.js';
import { Plugins } from './domains/plugins/plugins.js';
import { Usage } from './domains/usage/usage.js';
import { usageJob } from './domains/usage/usage.jobs.js';
import { Users } from './domains/users/users.js';
import { eraseUsersJob } from './domains/users/users.jobs.js';
import { Outbox } from './events/outbox.js';
import { GatewayClient, type GatewayClientOptions } from './gateway/gateway.js';
import { Edge, type EdgeOptions } from './http/edge.js';
import { HttpMetrics } from './http/metrics.js';
import type { StreamOptions } from './http/sse.js';
import type { Log } from './lib/log.js';
import { Loop } from './lib/loop.js';
import { EgressProxy } from './link/egress.js';
import { LinkHost } from './link/host.js';
import { LlmGateway } from './llm/gateway.js';
import { createProviders, ProviderRegistry } from './llm/providers.js';
import { linkSyncJob } from './reconciler/link-sync.js';
import { Reconciler, type ReconcilerOptions } from './reconciler/reconciler.js';
import type { Runtime } from './runtime/runtime.js';
import type { Vault } from './vault/vault.js';

export interface AppOptions {
  config: Config;
  secrets: Pick<Secrets, 'openaiApiKey' | 'anthropicApiKey'>;
  adminKey: string;
  database: Database;
  vault: Vault;
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
  /** Intervals of the reconciler, where they are not to be the usual ones. */
  reconciler?: Pick<ReconcilerOptions, 'passEveryMs' | 'sweepEveryMs' | 'concurrency' | 'clock'>;
}

export interface App {
  edge: Edge;
  /** Listens for instances and begins to reconcile. */
  start(): Promise<void>;
  /** Ends what runs, in reverse order; instances go on. */
  stop(): Promise<void>;
}

/** Builds the system, in order of dependence: read it as the list of what there is. */
export function createApp(options: AppOptions): App {
  const { config, secrets, database, vault, installation, runtime, processId, log, version } = options;
  const { db, bus } = database;
  const stallTimeoutMs = config.providerStallTimeoutMs;
  const providers = createProviders({ ...config, transport: { firstByteTimeoutMs: stallTimeoutMs, stallTimeoutMs } }, secrets);
  const registry = new ProviderRegistry(providers);

  const work = new DeploymentWork({ db, bus, processId });
  const tiers = new Tiers({ db, bus });
  const keys = new ApiKeys({ db, bus, pepper: installation.pepper, adminKey: options.adminKey });
  const usage = new Usage({ db, processId });
  const idempotency = new Idempotency({ db, vault });

  const llm = new LlmGateway({ providers, log, ledger: usage, agents: new AgentModels({ db }) });
  let stopping = false;
  const lookAgain = (deploymentId: string) => {
    work.lookAgain([deploymentId]).catch((error: unknown) => log.error({ err: error }, 'a deployment could not be marked'));
  };
  const egress = new EgressProxy({ policyOf: (identity) => work.networkOf(identity.deploymentId), deny: config.egressDeny, log });
  const links = new LinkHost({
    dir: config.linkDir,
    processId,
    log,
    handler: llm.handle,
    egress,
    onUp: ({ deploymentId }) => lookAgain(deploymentId),
    onDown: ({ deploymentId }) => {
      // The links that this process cuts as it ends say nothing of their instances.
      if (!stopping) lookAgain(deploymentId);
    },
    onAbuse: ({ identity, reason }) => {
      work
        .noteAbuse(identity.deploymentId, reason)
        .catch((error: unknown) => log.error({ err: error }, 'abuse could not be noted'));
    },
  });
  const gateway = new GatewayClient({ links, ...(options.gateway ? { limits: options.gateway } : {}) });

  const deployments = new Deployments({ db, bus, takeUid });
  const checkModel = (model: string) => void registry.resolve(model);
  const agents = new Agents({ db, bus, tiers, keys, deployments, gateway, defaultModel: config.defaultModel, checkModel });
  const chat = new Chat({ db, log, agents, gateway, processId, readyTimeoutMs: config.readyTimeoutMs });
  const fileClient = new FilesClient({ links, times: options.files?.times });
  const files = new Files({ db, agents, client: fileClient, readyTimeoutMs: config.readyTimeoutMs });
  const users = new Users({ db, bus, vault, tiers, keys, agents, deployments, erasers: [chat, plugins, usage, new Outbox()] });
  const completions = new Completions({ chat, agents, resolveUser: (name) => users.resolve(name) });
  const logs = new Logs({ db, bus, runtime });
  const plugins = new Plugins({ db, agents, skillsNamed: async () => new Map() });
  const health = new Health({ db, runtime });
  const metrics = new HttpMetrics(undefined, { process: true });

  const api = createApi({
    agents,
    chat,
    completions,
    deployments,
    health,
    keys,
    logs,
    metrics,
    publicUrl: config.publicUrl,
    stream: options.stream,
    tiers,
    usage,
    users,
    plugins,
    version,
  });
  const edge = new Edge(api, {
    authenticator: keys,
    directory: users,
    log,
    config,
    limits: async (caller) => (caller.kind === 'admin' ? undefined : (await tiers.get(caller.tier)).requests_per_minute),
    idempotency,
    metrics,
    ...(options.rates ? { rates: options.rates } : {}),
  });

  const { orphanGraceMs, agentImage: image } = config;
  const assembly = new Assembly({ db, parts: [(...of) => plugins.describe(...of)], packageOf: async () => undefined });
  const reconciler = new Reconciler({
    work,
    assembly,
    runtime,
    links,
    gateway,
    installationId: installation.id,
    image,
    bus,
    log,
    orphanGraceMs,
    ...options.reconciler,
  });
  const linkSync = new Loop(linkSyncJob({ work, links, log, onEnded: (instanceId) => egress.forget(instanceId) }), log);
  const erase = new Loop(eraseUsersJob(users), log);
  const loops = [
    linkSync,
    erase,
    ...[heartbeatJob(db, processId), usageJob(usage), settleTurnsJob(chat), pruneIdempotencyJob(idempotency)].map(
      (job) => new Loop(job, log),
    ),
  ];

  return {
    edge,
    async start() {
      await heartbeatJob(db, processId).run(new AbortController().signal);
      if (database.kind === 'pglite') await work.dropAllLeases();
      bus.subscribe('instance', () => linkSync.wake());
      bus.subscribe('user', () => erase.wake());
      for (const loop of loops) loop.start();
      reconciler.start();
    },
    async stop() {
      stopping = true;
      // Together: the turns that run must end in a clear error now, however long the engine takes to answer.
      await Promise.all([reconciler.stop(), llm.close().then(() => links.shutdown())]);
      await Promise.all(loops.map((loop) => loop.stop()));
      await signOff(db, processId);
      await runtime.close();
    },
  };
}
