import type { Generated } from 'kysely';

/** `halted`: its deployments did badly, and are back at what they had. `undone`: the same, since somebody said so. */
export type RolloutState = 'running' | 'paused' | 'done' | 'halted' | 'undone';

export type MemberState = 'waiting' | 'rolling' | 'ready' | 'failed' | 'gone' | 'undone';

export interface RolloutsTable {
  id: string;
  image: string;
  /** Share of the deployments that are first. */
  canary: number;
  pause_s: number;
  wave_timeout_s: number;
  least_health: number;
  state: Generated<RolloutState>;
  reason: Generated<string | null>;
  /** The wave in hand, from 0; -1 before the first. */
  wave: Generated<number>;
  health: Generated<number>;
  /** When that wave began, and when all of it was ready. */
  wave_at: Generated<Date | null>;
  ready_at: Generated<Date | null>;
  created_at: Generated<Date>;
  ended_at: Generated<Date | null>;
}

export interface RolloutMembersTable {
  rollout_id: string;
  deployment_id: string;
  wave: number;
  state: Generated<MemberState>;
  /** The image that it had from a rollout before; null: the usual one. */
  previous: string | null;
}
