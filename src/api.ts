import type { Agents } from './domains/agents/agents.js';
import { agentsRoutes } from './domains/agents/agents.routes.js';
import type { ApiKeys } from './domains/api-keys/api-keys.js';
import { apiKeysRoutes } from './domains/api-keys/api-keys.routes.js';
import type { Audit } from './domains/audit/audit.js';
import { auditRoutes } from './domains/audit/audit.routes.js';
import type { Chat } from './domains/chat/chat.js';
import { chatRoutes } from './domains/chat/chat.routes.js';
import type { Completions } from './domains/chat/completions.js';
import { completionsRoutes } from './domains/chat/completions.routes.js';
import type { Context } from './domains/context/context.js';
import { contextRoutes } from './domains/context/context.routes.js';
import type { Configs } from './domains/configs/configs.js';
import { configsRoutes } from './domains/configs/configs.routes.js';
import type { Deployments } from './domains/deployments/deployments.js';
import { deploymentsRoutes } from './domains/deployments/deployments.routes.js';
import type { Events } from './domains/events/events.js';
import { eventsRoutes } from './domains/events/events.routes.js';
import { socketRoutes } from './domains/events/socket.routes.js';
import { historyRoutes } from './domains/deployments/history.routes.js';
import type { Explain } from './domains/explain/explain.js';
import { explainRoutes } from './domains/explain/explain.routes.js';
import type { Files } from './domains/files/files.js';
import { filesRoutes } from './domains/files/files.routes.js';
import type { Figures } from './domains/health/figures.js';
import type { Health } from './domains/health/health.js';
import { healthRoutes, livenessRoutes, readyRoutes } from './domains/health/health.routes.js';
import type { Heartbeats } from './domains/heartbeats/heartbeats.js';
import { heartbeatsRoutes } from './domains/heartbeats/heartbeats.routes.js';
import type { Logs } from './domains/logs/logs.js';
import { logsRoutes } from './domains/logs/logs.routes.js';
import type { Plugins } from './domains/plugins/plugins.js';
import { pluginsRoutes } from './domains/plugins/plugins.routes.js';
import type { SkillInstalls } from './domains/skills/installs.js';
import { installsRoutes } from './domains/skills/installs.routes.js';
import type { Skills } from './domains/skills/skills.js';
import { skillsRoutes } from './domains/skills/skills.routes.js';
import { templateHistoryRoutes } from './domains/templates/history.routes.js';
import type { Templates } from './domains/templates/templates.js';
import { templatesRoutes } from './domains/templates/templates.routes.js';
import { copiesRoutes } from './domains/snapshots/copies.routes.js';
import type { Snapshots } from './domains/snapshots/snapshots.js';
import { snapshotsRoutes } from './domains/snapshots/snapshots.routes.js';
import type { Secrets } from './domains/secrets/secrets.js';
import { secretsRoutes } from './domains/secrets/secrets.routes.js';
import type { Tiers } from './domains/tiers/tiers.js';
import { tiersRoutes } from './domains/tiers/tiers.routes.js';
import type { Traffic } from './domains/traffic/traffic.js';
import { trafficRoutes } from './domains/traffic/traffic.routes.js';
import type { Usage } from './domains/usage/usage.js';
import { usageRoutes } from './domains/usage/usage.routes.js';
import type { Revisions } from './domains/revisions/revisions.js';
import { revisionsRoutes } from './domains/revisions/revisions.routes.js';
import type { Rollouts } from './domains/rollouts/rollouts.js';
import { rolloutsRoutes } from './domains/rollouts/rollouts.routes.js';
import type { VaultRotation } from './domains/vault-rotation/vault-rotation.js';
import { vaultRotationRoutes } from './domains/vault-rotation/vault-rotation.routes.js';
import type { Users } from './domains/users/users.js';
import { usersRoutes } from './domains/users/users.routes.js';
import type { DeliveryLog } from './domains/webhooks/delivery-log.js';
import type { Webhooks } from './domains/webhooks/webhooks.js';
import { webhooksRoutes } from './domains/webhooks/webhooks.routes.js';
import { docsRoutes } from './http/docs.js';
import type { HttpMetrics } from './http/metrics.js';
import { metricsRoutes } from './http/metrics.routes.js';
import { openApiRoutes } from './http/openapi.js';
import { createRouter, type Router } from './http/router.js';
import type { StreamOptions } from './http/sse.js';

export interface ApiParts {
  agents: Agents;
  audit: Audit;
  chat: Chat;
  completions: Completions;
  configs: Configs;
  context: Context;
  deliveries: DeliveryLog;
  deployments: Deployments;
  events: Events;
  explain: Explain;
  figures: Figures;
  files: Files;
  health: Health;
  installs: SkillInstalls;
  heartbeats: Heartbeats;
  keys: ApiKeys;
  logs: Logs;
  metrics: HttpMetrics;
  plugins: Plugins;
  publicUrl: string | undefined;
  revisions: Revisions;
  rotation: VaultRotation;
  rollouts: Rollouts;
  secrets: Secrets;
  /** Of every stream, where it is not to be as usual. */
  stream?: StreamOptions | undefined;
  skills: Skills;
  snapshots: Snapshots;
  templates: Templates;
  tiers: Tiers;
  traffic: Traffic;
  usage: Usage;
  users: Users;
  version: string;
  webhooks: Webhooks;
}

const BASE = '/api/v1';

/** The table of contents: every route is in one of these. Who may call it stands beside the route. */
export function createApi(parts: ApiParts): Router {
  const { agents, chat, completions, deployments, files, health, keys, logs, metrics, publicUrl, tiers, usage, users, version } =
    parts;
  const app = createRouter();

  app.route(BASE, usersRoutes(users));
  app.route(BASE, apiKeysRoutes(keys));
  app.route(BASE, tiersRoutes(tiers));
  app.route(BASE, agentsRoutes({ agents, publicUrl }));
  app.route(BASE, deploymentsRoutes({ deployments, nameOf: (userId) => users.nameOf(userId) }));
  app.route(BASE, historyRoutes(deployments));
  app.route(BASE, revisionsRoutes(parts.revisions));
  app.route(BASE, configsRoutes(parts.configs));
  app.route(BASE, trafficRoutes(parts.traffic));
  app.route(BASE, eventsRoutes(parts.events, parts.stream));
  app.route(BASE, socketRoutes({ events: parts.events }));
  app.route(BASE, webhooksRoutes(parts.webhooks, parts.deliveries));
  app.route(BASE, explainRoutes(parts.explain));
  app.route(BASE, filesRoutes(files));
  app.route(BASE, chatRoutes(chat, parts.stream));
  app.route(BASE, contextRoutes(parts.context));
  app.route(BASE, pluginsRoutes(parts.plugins));
  app.route(BASE, heartbeatsRoutes(parts.heartbeats));
  app.route(BASE, skillsRoutes(parts.skills));
  app.route(BASE, installsRoutes(parts.installs));
  app.route(BASE, snapshotsRoutes(parts.snapshots));
  app.route(BASE, copiesRoutes(parts.snapshots));
  app.route(BASE, templatesRoutes(parts.templates));
  app.route(BASE, templateHistoryRoutes(parts.templates));
  app.route(BASE, secretsRoutes(parts.secrets));
  app.route(BASE, vaultRotationRoutes(parts.rotation));
  app.route(BASE, rolloutsRoutes(parts.rollouts));
  app.route(BASE, auditRoutes(parts.audit));
  app.route(BASE, usageRoutes(usage));
  app.route(BASE, logsRoutes(logs, parts.stream));
  app.route(BASE, healthRoutes({ health, figures: parts.figures, version }));

  app.route('/', completionsRoutes({ chat, completions, stream: parts.stream }));
  app.route('/', livenessRoutes());
  app.route('/', readyRoutes({ health }));
  app.route('/', metricsRoutes(metrics));
  app.route('/', docsRoutes());
  app.route(
    '/',
    openApiRoutes(app, { title: 'Berth', version, description: "A container of its own for every user's AI agents." }),
  );
  return app;
}
