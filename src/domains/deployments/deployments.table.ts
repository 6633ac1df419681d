import type { Generated, JSONColumnType } from 'kysely';

/** What an instance may reach through the egress proxy. A boundary of the deployment, never of one agent in a shared one. */
export type NetworkPolicy =
  | { mode: 'none' }
  | { mode: 'open'; ports?: number[] | undefined }
  | { mode: 'allowlist'; hosts: string[]; ports?: number[] | undefined };

/** What a deployment's container may take; the tier's where a field is absent, and never more than that. */
export interface ContainerLimits {
  memory_mib?: number | undefined;
  cpu_millis?: number | undefined;
  pids?: number | undefined;
}

/** The steps from a wish to an agent that answers, in their order. */
export const STAGES = ['queued', 'creating', 'starting', 'connecting', 'configuring', 'ready'] as const;
export type Stage = (typeof STAGES)[number];

export type DeploymentState = 'pending' | 'deploying' | 'ready' | 'asleep' | 'failing' | 'deleting';

/** `asleep`: no agent of it is to run. What it holds stays; its files can be had, for which it is woken. */
export type DeploymentDesire = 'running' | 'asleep' | 'deleted';

/** One stage of the latest attempt. `ms` is absent while it runs. */
export interface StageTiming {
  stage: Stage;
  /** RFC 3339. */
  started_at: string;
  ms?: number;
}

export interface DeploymentsTable {
  id: string;
  /** Null while it is nobody's: kept ready in the pool. */
  user_id: string | null;
  kind: 'shared' | 'dedicated' | 'pool';
  desired: Generated<DeploymentDesire>;
  network: NetworkPolicy;
  /** Less than the tier allows; null: what the tier allows. */
  limits: ContainerLimits | null;
  /** Another image than the usual one, out of those that the operator offers. */
  image: string | null;
  /** The image that a rollout gave it, where it has none of its own; null: the usual one. */
  rolled_image: Generated<string | null>;
  /** Uid and gid of every process of this deployment, and of no other's on this host. */
  uid: number;
  volume: string;
  /** How often its user wished it made anew. */
  restarts: Generated<number>;
  /** Number of instances made so far; the live one carries the highest. */
  generation: Generated<number>;
  /** Rises with every change of what the gateway must be told. */
  config_version: Generated<number>;
  /** Rises with every reason to look again, so that a pass that ends does not swallow a wake-up that came meanwhile. */
  wish: Generated<string>;
  state: Generated<DeploymentState>;
  stage: Generated<Stage>;
  /** Why the last attempt failed, in plain words. */
  reason: string | null;
  /** Failures since it was last ready. */
  attempts: Generated<number>;
  stages: JSONColumnType<StageTiming[], string | undefined, string>;
  /** When the reconciler must look next; null once settled. */
  due_at: Date | null;
  /** Until then a sleeping deployment is up for its files alone. */
  files_until: Date | null;
  /** How it sleeps for want of use: `paused` keeps its memory. A use wakes it; null: it does not. */
  rest: 'paused' | 'stopped' | null;
  /** When its next stage of rest begins unless it is used before. */
  idle_at: Date | null;
  /** Replacements that failed since the last one that did not, or since another one was wished. */
  roll_attempts: Generated<number>;
  /** Until then no other is tried. */
  roll_after: Generated<Date | null>;
  /** What it was to be made of. */
  roll_failed: Generated<string | null>;
  /** What holds its volume to its size, chosen when that was made: a file system of its own, or somebody who looks now and then. */
  disk: Generated<'hard' | 'soft' | null>;
  /** What its own file system was asked to have. */
  disk_size_mib: Generated<number | null>;
  /** Whether it has less still, since it could not be made larger while it was used. */
  disk_pending: Generated<boolean>;
  disk_used_mib: Generated<number | null>;
  /** Since when it has no room left, or holds more than it may. */
  disk_full_at: Generated<Date | null>;
  /** When it is to be measured next, while it runs; null: now. */
  measure_at: Generated<Date | null>;
  /** The memory that is set aside for it on the host; null: none, so that it must ask before it is started. */
  room_mib: Generated<number | null>;
  room_at: Generated<Date | null>;
  /** Since when it waits for room; null: it does not. */
  queued_at: Generated<Date | null>;
  /** Its place among those that wait: each user has one a turn. */
  queue_turn: Generated<string | null>;
  /** The memory that it waits for. */
  queue_mib: Generated<number | null>;
  lease_owner: string | null;
  lease_until: Date | null;
  /** Rises with every lease: a write carries the epoch it was claimed under, so a process that lost its lease changes nothing. */
  lease_epoch: Generated<string>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface InstancesTable {
  id: string;
  deployment_id: string;
  user_id: string | null;
  generation: number;
  /** `incoming`: it is to take the place of the current one, and takes over agent after agent (`agents.served_by`). */
  role: Generated<'current' | 'incoming'>;
  /** Since when agents are handed over to it, and when the last one was. */
  handing_at: Generated<Date | null>;
  handed_at: Generated<Date | null>;
  /** The runtime's name of it: deterministic per deployment and generation. */
  name: string;
  spec_hash: string;
  image: Generated<string | null>;
  /** The limits it has now, as the reconciler writes them. */
  limits: Generated<string>;
  /** SHA-256, hex, of the token that lies beside the socket. */
  token_digest: string;
  /** The config version its gateway has confirmed. */
  applied_version: Generated<number>;
  started_at: Date | null;
  /** When the runtime says that it began to run: another time means that it was restarted from outside and knows nothing any more. */
  runtime_started_at: string | number | null;
  created_at: Generated<Date>;
  /** When it was stopped on purpose, so that its end is no failure; null again once it runs. */
  stopped_at: Date | null;
  /** How often processes in it were killed for want of memory while it went on, and when the last was. */
  oom_kills: Generated<number>;
  oom_at: Generated<Date | null>;
  /** The share of the time in which it wanted CPU and was held back, when it was last measured. */
  cpu_throttled: Generated<number | null>;
  ended_at: Date | null;
  end_reason: string | null;
}

/**
 * What a deployment is to run: which agents, in what kind of container. What has a history of its own is named by its version, never copied; of
 * secrets there is nothing.
 */
export interface RevisionDocument {
  kind: 'shared' | 'dedicated';
  image: string;
  /** Who chose it: the config of its agent, a rollout, or nobody, so that it is the installation's usual one. */
  image_from: 'config' | 'rollout' | 'installation';
  network: NetworkPolicy;
  /** What its container may take: the tier's, or less. */
  limits: Required<ContainerLimits>;
  /** What was asked for of it; null: nothing. */
  limits_set: ContainerLimits | null;
  tier: string;
  agents: RevisionAgent[];
}

export interface RevisionAgent {
  id: string;
  name: string;
  model: string;
  /** The newest version of its config; 0: none was written yet. */
  config_version: number;
}

/** Never changed once written. */
export interface DeploymentRevisionsTable {
  id: string;
  user_id: string;
  deployment_id: string;
  /** From 1 for each deployment. */
  number: number;
  document: RevisionDocument;
  actor: string;
  request_id: string | null;
  /** In plain words, where it is no direct wish: a roll-back, a rollout. */
  reason: string | null;
  created_at: Generated<Date>;
}
