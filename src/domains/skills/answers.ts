import type { InstanceSkill } from '../../gateway/instance-config.js';
import type { SkillAnswer, SkillVersionAnswer } from './skills.schema.js';
import type { listVersions, SkillRow } from './skills.store.js';
import type { RegistrySource } from './skills.table.js';

export function skillAnswer(row: SkillRow): SkillAnswer {
  const { head } = row;
  return {
    id: row.id,
    name: row.name,
    user_id: row.user_id,
    description: head.description,
    origin: row.origin,
    registry: sourceAnswer(row.source),
    enabled_for: row.enabled_for,
    pinned: row.pinned,
    current_version: row.current,
    digest: row.digest,
    bytes: row.bytes,
    license: head.license ?? null,
    compatibility: head.compatibility ?? null,
    homepage: head.homepage ?? null,
    allowed_tools: head.allowed_tools ?? [],
    requires: head.requires ?? {},
    os: head.os ?? [],
    always: head.always ?? false,
    warnings: row.warnings,
    version: row.version,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

export function versionAnswer(row: Awaited<ReturnType<typeof listVersions>>[number], current: number): SkillVersionAnswer {
  return {
    number: row.number,
    current: row.number === current,
    digest: row.digest,
    bytes: row.bytes,
    description: row.head.description,
    registry: sourceAnswer(row.source),
    warnings: row.warnings,
    created_at: row.created_at.toISOString(),
  };
}

/** The skill as an agent's gateway is told of it. */
export function instanceSkill(row: SkillRow): InstanceSkill {
  const { requires, os, always, description } = row.head;
  const lock = row.source && { ...row.source.lock, ...(row.pinned ? { pinned: true } : {}) };
  return {
    name: row.name,
    digest: row.digest,
    description,
    ...(requires ? { requires } : {}),
    ...(os ? { os } : {}),
    ...(always ? { always } : {}),
    ...(lock ? { lock } : {}),
  };
}

function sourceAnswer(source: RegistrySource | null) {
  if (source === null) return null;
  const { lock: _, ...rest } = source;
  return rest;
}
