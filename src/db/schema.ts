import type { AgentsTable } from '../domains/agents/agents.table.js';
import type {
  AuditEntriesTable,
  AuditHeadsTable,
  AuditKeysTable,
  AuditOpenTable,
  AuditReceiptsTable,
} from '../domains/audit/audit.table.js';
import type { ApiKeysTable } from '../domains/api-keys/api-keys.table.js';
import type { ConversationsTable, ForgottenConversationsTable, TurnEventsTable, TurnsTable } from '../domains/chat/chat.table.js';
import type { AgentConfigsTable } from '../domains/configs/configs.table.js';
import type { EventHorizonTable, SocketTicketsTable } from '../domains/events/events.table.js';
import type { DeploymentRevisionsTable, DeploymentsTable, InstancesTable } from '../domains/deployments/deployments.table.js';
import type { HeartbeatRunsTable, HeartbeatsTable } from '../domains/heartbeats/heartbeats.table.js';
import type { IdempotencyKeysTable } from '../domains/idempotency/idempotency.table.js';
import type { InstallationTable, ProcessesTable } from '../domains/installation/installation.table.js';
import type { LogSegmentsTable, LogStreamsTable } from '../domains/logs/logs.table.js';
import type {
  NotificationChannelsTable,
  NotificationDeliveriesTable,
  NotificationMailsTable,
  NotificationReadersTable,
  NotificationRuleChannelsTable,
  NotificationRulesTable,
  NotificationsTable,
} from '../domains/notifications/notifications.table.js';
import type { AgentPluginsTable, PluginsTable } from '../domains/plugins/plugins.table.js';
import type { AgentSkillsTable, SkillPackagesTable, SkillsTable, SkillVersionsTable } from '../domains/skills/skills.table.js';
import type {
  KeptLinesTable,
  RestoresTable,
  SnapshotSchedulesTable,
  SnapshotsTable,
} from '../domains/snapshots/snapshots.table.js';
import type { TemplatesTable, TemplateVariablesTable } from '../domains/templates/templates.table.js';
import type { SecretsTable, SecretStoresTable } from '../domains/secrets/secrets.table.js';
import type { EgressTrafficTable } from '../domains/traffic/traffic.table.js';
import type { TiersTable } from '../domains/tiers/tiers.table.js';
import type { UsageMonthsTable, UsageTable } from '../domains/usage/usage.table.js';
import type { DeletionsTable, UsersTable } from '../domains/users/users.table.js';
import type { RolloutMembersTable, RolloutsTable } from '../domains/rollouts/rollouts.table.js';
import type { VaultKeyringsTable, VaultRotationsTable } from '../domains/vault-rotation/vault-rotation.table.js';
import type { WebhookAttemptsTable, WebhookDeliveriesTable, WebhooksTable } from '../domains/webhooks/webhooks.table.js';
import type { EventCountersTable, EventsTable } from '../events/events.table.js';

/** Every table, by name. One line a table; the columns are described in the domain that owns them. */
export interface Schema {
  agent_configs: AgentConfigsTable;
  agent_plugins: AgentPluginsTable;
  agent_skills: AgentSkillsTable;
  agents: AgentsTable;
  api_keys: ApiKeysTable;
  audit_entries: AuditEntriesTable;
  audit_heads: AuditHeadsTable;
  audit_keys: AuditKeysTable;
  audit_open: AuditOpenTable;
  audit_receipts: AuditReceiptsTable;
  conversations: ConversationsTable;
  deletions: DeletionsTable;
  deployment_revisions: DeploymentRevisionsTable;
  deployments: DeploymentsTable;
  egress_traffic: EgressTrafficTable;
  event_counters: EventCountersTable;
  event_horizon: EventHorizonTable;
  events: EventsTable;
  forgotten_conversations: ForgottenConversationsTable;
  heartbeat_runs: HeartbeatRunsTable;
  heartbeats: HeartbeatsTable;
  idempotency_keys: IdempotencyKeysTable;
  installation: InstallationTable;
  instances: InstancesTable;
  log_segments: LogSegmentsTable;
  log_streams: LogStreamsTable;
  notification_channels: NotificationChannelsTable;
  notification_deliveries: NotificationDeliveriesTable;
  notification_mails: NotificationMailsTable;
  notification_readers: NotificationReadersTable;
  notification_rule_channels: NotificationRuleChannelsTable;
  notification_rules: NotificationRulesTable;
  notifications: NotificationsTable;
  plugins: PluginsTable;
  processes: ProcessesTable;
  skill_packages: SkillPackagesTable;
  skill_versions: SkillVersionsTable;
  skills: SkillsTable;
  kept_lines: KeptLinesTable;
  restores: RestoresTable;
  snapshot_schedules: SnapshotSchedulesTable;
  snapshots: SnapshotsTable;
  template_variables: TemplateVariablesTable;
  templates: TemplatesTable;
  secret_stores: SecretStoresTable;
  secrets: SecretsTable;
  socket_tickets: SocketTicketsTable;
  tiers: TiersTable;
  turn_events: TurnEventsTable;
  turns: TurnsTable;
  usage: UsageTable;
  usage_months: UsageMonthsTable;
  users: UsersTable;
  vault_keyrings: VaultKeyringsTable;
  vault_rotations: VaultRotationsTable;
  webhook_attempts: WebhookAttemptsTable;
  webhook_deliveries: WebhookDeliveriesTable;
  webhooks: WebhooksTable;
  rollouts: RolloutsTable;
  rollout_members: RolloutMembersTable;
}
