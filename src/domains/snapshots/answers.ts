import type { RestoreRow } from './restores.store.js';
import type { ScheduleRow } from './schedules.store.js';
import type { DeletedAgent, RestoreAnswer, ScheduleAnswer, SnapshotAnswer, SnapshotDetail } from './snapshots.schema.js';
import type { SnapshotRow } from './snapshots.store.js';

export function snapshotAnswer(row: SnapshotRow): SnapshotAnswer {
  const { id, agent_id, agent_name: agent, kind, state, reason, note, contents } = row;
  return {
    id,
    agent_id,
    agent,
    kind,
    state,
    reason,
    note,
    bytes: Number(row.bytes),
    contents,
    created_at: row.created_at.toISOString(),
    taken_at: row.taken_at?.toISOString() ?? null,
    expires_at: row.expires_at?.toISOString() ?? null,
  };
}

export function snapshotDetail(row: SnapshotRow): SnapshotDetail {
  return { ...snapshotAnswer(row), settings: row.settings };
}

export function restoreAnswer(row: RestoreRow): RestoreAnswer {
  const { id, agent_id, snapshot_id, before_id, kind, state, reason, left_out, turns_removed } = row;
  return {
    id,
    agent_id,
    snapshot_id,
    before_id,
    kind,
    state,
    reason,
    left_out,
    turns_removed,
    created_at: row.created_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
  };
}

export function deletedAnswer(row: SnapshotRow): DeletedAgent {
  const snapshot = snapshotAnswer(row);
  return {
    id: row.agent_id,
    name: row.agent_name,
    deleted_at: snapshot.created_at,
    expires_at: snapshot.expires_at,
    snapshot,
  };
}

export function scheduleAnswer({ cron, time_zone, every_s, keep, next_at, updated_at }: ScheduleRow): ScheduleAnswer {
  return { cron, time_zone, every_s, keep, next_at: next_at.toISOString(), updated_at: updated_at.toISOString() };
}
