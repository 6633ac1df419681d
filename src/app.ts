import { createApi } from './api.js';
import { chatParts } from './app-chat.js';
import { createEvents } from './app-events.js';
import { createHealth } from './app-health.js';
import { jobsOf } from './app-jobs.js';
import type { AppOptions } from './app-options.js';
import { ClawHub } from './clawhub/clawhub.js';
import { Agents, type AgentsOptions } from './domains/agents/agents.js';
import { AgentModels } from './domains/agents/models.js';
import { AgentArrivals } from './domains/agents/arrivals.js';
import { AgentMoves } from './domains/agents/moves.js';
import { giveAcrossTenants, settleAcrossTenants } from './domains/agents/serving.store.js';
import { Assembly } from './domains/assembly/assembly.js';
import { Audit } from './domains/audit/audit.js';
import { ApiKeys } from './domains/api-keys/api-keys.js';
import { Context } from './domains/context/context.js';
import { TokenCounter } from './domains/context/token-counter.js';
import { Configs } from './domains/configs/configs.js';
import { admitJob } from './domains/deployments/deployments.jobs.js';
import { admissionOf } from './domains/deployments/admission-of.js';
import { Deployments } from './domains/deployments/deployments.js';
import { Explain } from './domains/explain/explain.js';
import { Pool } from './domains/deployments/pool.js';
import { Vitals } from './domains/deployments/vitals.js';
import { Replacements } from './domains/deployments/replacement.js';
import { DeploymentWork } from './domains/deployments/work.js';
import { Files } from './domains/files/files.js';
import { Heartbeats } from './domains/heartbeats/heartbeats.js';
import { Idempotency } from './domains/idempotency/idempotency.js';
import { KeptAnswers } from './domains/idempotency/kept-answers.js';
import { adoptMasterKey, heartbeatJob, readKeyCheck, signOff, takeUid } from './domains/installation/installation.js';
import { Logging } from './domains/logs/logging.js';
import { Plugins } from './domains/plugins/plugins.js';
import { SkillInstalls } from './domains/skills/installs.js';
import { Skills } from './domains/skills/skills.js';
import { Secrets as UserSecrets } from './domains/secrets/secrets.js';
import { Snapshots } from './domains/snapshots/snapshots.js';
import { Templates } from './domains/templates/templates.js';
import { Tiers } from './domains/tiers/tiers.js';
import { Traffic } from './domains/traffic/traffic.js';
import { rotateVaultJob } from './domains/vault-rotation/vault-rotation.jobs.js';
import { Revisions } from './domains/revisions/revisions.js';
import { Rollouts } from './domains/rollouts/rollouts.js';
import { VaultRotation } from './domains/vault-rotation/vault-rotation.js';
import { Usage } from './domains/usage/usage.js';
import { DataKeys } from './domains/users/data-keys.js';
import { Users } from './domains/users/users.js';
import { eraseUsersJob } from './domains/users/users.jobs.js';
import { Outbox } from './events/outbox.js';
import { FilesClient } from './gateway/files.js';
import { ReleaseClient } from './gateway/release.js';
import { StateClient } from './gateway/state.js';
import { ContextClient } from './gateway/context.js';
import { GatewayClient } from './gateway/gateway.js';
import { Edge } from './http/edge.js';
import { createMetrics } from './http/metrics.js';
import { jobMeter, Loop } from './lib/loop.js';
import { EgressProxy } from './link/egress.js';
import { LinkHost } from './link/host.js';
import { LlmGateway } from './llm/gateway.js';
import { createProviders, ProviderRegistry } from './llm/providers.js';
import { LinkSync } from './reconciler/link-sync.js';
import { Reconciler } from './reconciler/reconciler.js';

export interface App {
  edge: Edge;
  /** Listens for instances and begins to reconcile. */
  start(): Promise<void>;
  /** Ends the streams that have no end of their own, so that their clients go on with another process. */
  endStreams(): void;
  /** Ends what runs, in reverse order; instances go on. */
  stop(): Promise<void>;
}

/** Builds the system, in order of dependence: read it as the list of what there is. */
export function createApp(options: AppOptions): App {
  const { config, secrets, database, vault, installation, runtime, processId, log, version } = options;
  const { db, bus } = database;
  const around = { db, bus, log, processId };
  const stallTimeoutMs = config.providerStallTimeoutMs;
  const providers = createProviders({ ...config, transport: { firstByteTimeoutMs: stallTimeoutMs, stallTimeoutMs } }, secrets);
  const registry = new ProviderRegistry(providers);

  const work = new DeploymentWork({ db, bus, processId });
  const tiers = new Tiers({ db, bus });
  const keys = new ApiKeys({ db, bus, pepper: installation.pepper, adminKey: options.adminKey });
  const usage = new Usage({ db, processId });
  const idempotency = new Idempotency({ db, vault });
  const audit = new Audit({ db, bus, vault, log, installationId: installation.id, processId });

  const metrics = createMetrics(version);
  const llm = new LlmGateway({ providers, log, meters: metrics, ledger: usage, agents: new AgentModels({ db }) });
  let stopping = false;
  const traffic = new Traffic({ db });
  const egress = new EgressProxy({
    policyOf: (identity) => work.networkOf(identity.deploymentId),
    deny: config.egressDeny,
    ledger: traffic,
    log,
  });
  const links = new LinkHost({
    dir: config.linkDir,
    processId,
    log,
    meters: metrics,
    handler: (identity, request, response) => {
      // What was nobody's when its listener was opened may be somebody's by now.
      if (identity.userId !== '') return llm.handle(identity, request, response);
      work.ownerOf(identity.instanceId).then(
        (userId) => llm.handle({ ...identity, userId }, request, response),
        (error: unknown) => {
          log.error({ err: error }, 'an instance cannot be identified');
          response.destroy();
        },
      );
    },
    egress,
    onUp: ({ deploymentId }) => reconciler.noteLink(deploymentId),
    onDown: ({ deploymentId }) => {
      // The links that this process cuts as it ends say nothing of their instances.
      if (!stopping) reconciler.noteLink(deploymentId);
    },
    onAbuse: ({ identity, reason }) => {
      work
        .noteAbuse(identity.deploymentId, reason)
        .catch((error: unknown) => log.error({ err: error }, 'abuse could not be noted'));
    },
  });
  const gateway = new GatewayClient({ links, meters: metrics, ...(options.gateway ? { limits: options.gateway } : {}) });

  const deployments = new Deployments({ db, bus, takeUid, image: config.agentImage });
  const admission = admissionOf(config, { db, bus, tiers, host: options.host });
  const pool = new Pool({ db, bus, takeUid, size: config.poolSize, hasRoom: () => admission.hasRoomForPool() });
  const checkModel = (model: string) => void registry.resolve(model);
  // The templates need the agents first; by the time that an agent is made, they are there.
  const checkRoom: AgentsOptions['checkRoom'] = (trx, userId) => templates.checkRoom(trx, userId);
  const agents = new Agents({
    ...around,
    tiers,
    keys,
    deployments,
    gateway,
    defaultModel: config.defaultModel,
    checkModel,
    checkRoom,
    farewell: { gather: (userId, agent) => snapshots.gather(userId, agent) },
  });
  const skills = new Skills({ db, agents });
  const clawhub = new ClawHub({ url: config.clawhubUrl, limits: options.clawhub, deny: config.egressDeny });
  const installs = new SkillInstalls({ skills, registry: clawhub, allow: config.clawhubAllow, log });
  const plugins = new Plugins({ db, agents, skillsNamed: (...of) => skills.named(...of) });
  const counter = new TokenCounter();
  const contextClient = new ContextClient({ links });
  const context = new Context({ agents, plugins, client: contextClient, counter, readyTimeoutMs: config.readyTimeoutMs });
  const userSecrets = new UserSecrets({ db, vault, agents, log });
  const templates = new Templates({ db, agents });
  const configs = new Configs({
    db,
    agents,
    deployments,
    defaultModel: config.defaultModel,
    checkModel,
    images: config.agentImages,
  });
  // The users come later; by the time that one is looked for, they are there.
  const resolveUser = (name: string) => users.resolve(name);
  const chats = chatParts(options, { agents, links, gateway, resolveUser });
  const { chat, turns } = chats;
  const heartbeats = new Heartbeats({ db, log, agents, chat, configs, templates, processId });
  const fileClient = new FilesClient({ links, times: options.files?.times });
  const files = new Files({ db, log, agents, client: fileClient, readyTimeoutMs: config.readyTimeoutMs });
  const events = createEvents(options, keys);
  const state = new StateClient({ links });
  const shaped = { agents, arrivals: new AgentArrivals({ deployments }), configs, plugins, skills, templates, checkModel };
  const snapshots = new Snapshots({ db, bus, log, vault, chat, deployments, state, config, ...shaped });
  const logging = new Logging({ ...around, runtime, dir: config.logDir, secrets: userSecrets, limits: options.logs });
  const rows = [
    heartbeats,
    userSecrets,
    templates,
    plugins,
    skills,
    traffic,
    usage,
    logging.logs,
    ...events.erasers,
    new Outbox(),
  ];
  const erasers = [audit, snapshots, chat, ...rows];
  const users: Users = new Users({ db, bus, vault, tiers, keys, agents, deployments, erasers });
  const vitals = new Vitals({ db, bus, runtime, files: fileClient, log, everyS: options.vitals?.everyS ?? 60 });
  const { logs } = logging;
  const explain = new Explain({ db, runtime, logs, deployments, checkModel, reaches: (id) => gateway.reaches(id) });
  const { health, figures } = createHealth({ db, runtime, config, vault, links, audit, metrics });

  const rotation = new VaultRotation({
    ...around,
    vault,
    files: options.keyFiles,
    alone: database.kind === 'pglite',
    resealed: [new DataKeys({ vault, log }), new KeptAnswers({ vault }), audit.resealed],
    adopt: (trx) => adoptMasterKey(trx, vault),
    keyCheck: readKeyCheck,
  });

  const revisions = new Revisions({ db, agents, configs, deployments, tiers, images: config.agentImages });
  const rollouts = new Rollouts({ db, deployments, images: [config.agentImage, ...config.agentImages] });

  const api = createApi({
    agents,
    audit,
    ...chats,
    context,
    configs,
    deployments,
    explain,
    figures,
    files,
    health,
    heartbeats,
    installs,
    keys,
    logs: logging.logs,
    metrics,
    plugins,
    publicUrl: config.publicUrl,
    revisions,
    rotation,
    rollouts,
    secrets: userSecrets,
    stream: options.stream,
    skills,
    snapshots,
    templates,
    tiers,
    traffic,
    usage,
    users,
    version,
    ...events.routes,
  });
  const edge = new Edge(api, {
    authenticator: keys,
    directory: users,
    log,
    config,
    limits: async (caller) => (caller.kind === 'admin' ? undefined : (await tiers.get(caller.tier)).requests_per_minute),
    idempotency,
    audit: audit.trail,
    metrics,
    ...(options.rates ? { rates: options.rates } : {}),
    ...(options.files?.pace ? { pace: options.files.pace } : {}),
  });

  const { orphanGraceMs, agentImage: image } = config;
  const assembly = new Assembly({
    db,
    parts: [
      (...of) => templates.filesFor(...of),
      (...of) => skills.describe(...of),
      (...of) => plugins.describe(...of),
      (...of) => userSecrets.describe(...of),
      (...of) => configs.settingsFor(...of),
    ],
    packageOf: (...of) => skills.packageOf(...of),
  });
  const reconciler = new Reconciler({
    ...around,
    work,
    assembly,
    replacements: new Replacements({ db, bus, agents: { giveAcrossTenants, settleAcrossTenants } }),
    releases: new ReleaseClient({ links }),
    probationMs: config.replaceProbationMs,
    turnTimeoutMs: config.replaceTurnTimeoutMs,
    runtime,
    vitals,
    admission,
    lastWords: (instanceId) => logging.lastWords(instanceId),
    links,
    gateway,
    installationId: installation.id,
    image,
    meters: metrics,
    orphanGraceMs,
    ...options.reconciler,
  });
  const note = jobMeter(metrics);
  const linkSync = new LinkSync({ work, links, bus, log, onEnded: (instanceId) => egress.forget(instanceId) });
  const admit = new Loop(admitJob(admission), log, note);
  const erase = new Loop(eraseUsersJob(users), log, note);
  const moves = new AgentMoves({ db, log, deployments, state });
  const rotate = new Loop(rotateVaultJob(rotation), log, note);
  const parts = {
    db,
    processId,
    audit,
    chats,
    deployments,
    events,
    heartbeats,
    idempotency,
    moves,
    pool,
    rollouts,
    snapshots,
    traffic,
  };
  const loops = [
    rotate,
    linkSync,
    admit,
    erase,
    ...logging.loops,
    ...jobsOf({ ...parts, usage, vitals, egress, links }, options).map((job) => new Loop(job, log, note)),
  ];

  return {
    edge,
    async start() {
      await heartbeatJob(db, processId).run(new AbortController().signal);
      await rotation.join();
      await audit.begin();
      if (database.kind === 'pglite') await work.dropAllLeases();
      await logging.prepare(database.kind === 'pglite');
      bus.subscribe('deployment', () => admission.isWaited && admit.wake());
      bus.subscribe('user', () => erase.wake());
      bus.subscribe('vault', () => rotate.wake());
      bus.subscribe('deployment', (id) => {
        egress.recheck(id).catch((error: unknown) => log.error({ err: error }, 'egress could not be held to its policy'));
      });
      events.start();
      await deployments.adoptImages([image, ...config.agentImages]);
      for (const loop of loops) loop.start();
      reconciler.start();
    },
    endStreams: () => events.endStreams(),
    async stop() {
      stopping = true;
      await events.stop();
      // Together: the turns that run must end in a clear error now, however long the engine takes to answer.
      await Promise.all([reconciler.stop(), heartbeats.stop(), turns.stop(), llm.close().then(() => links.shutdown())]);
      await Promise.all([snapshots.stop(), ...loops.map((loop) => loop.stop())]);
      await logging.stop();
      await counter.stop();
      await traffic.flush();
      await audit.flush();
      await signOff(db, processId);
      await runtime.close();
    },
  };
}
