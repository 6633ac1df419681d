import type { Generated } from 'kysely';
import type { SkillHead } from './frontmatter.js';
import type { ListedFile } from './package.js';

export interface SkillsTable {
  id: string;
  user_id: string;
  /** The folder in an agent's workspace; unique within its user. */
  name: string;
  origin: 'upload' | 'registry';
  /** Whether agents have it that say nothing themselves. */
  enabled_for: 'all' | 'none';
  /** The version that agents have. */
  current: number;
  /** Numbers are not used twice, also when versions were dropped. */
  last_number: number;
  /** Not to be updated from the registry. */
  pinned: Generated<boolean>;
  /** Counts changes, for `If-Match`. */
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface SkillPackagesTable {
  user_id: string;
  /** SHA-256 of the tar, hex. */
  digest: string;
  tar: Buffer;
  bytes: number;
  files: ListedFile[];
  created_at: Generated<Date>;
}

/** Where a version came from, when it came from the registry. */
export interface RegistrySource {
  registry: string;
  slug: string;
  owner: string | null;
  version: string;
  /** Of the files as the registry's own client counts it. */
  fingerprint: string;
  /** SHA-256 of the archive that was downloaded. */
  archive_sha256: string;
  verdict: { decision: string; status: string | null; reasons: string[]; overview: string | null; audit_url: string | null };
  /** The entry for the workspace's `.clawhub/lock.json`. */
  lock: Record<string, unknown>;
}

export interface SkillVersionsTable {
  skill_id: string;
  user_id: string;
  number: number;
  digest: string;
  head: SkillHead;
  warnings: string[];
  source: RegistrySource | null;
  created_at: Generated<Date>;
}

export interface AgentSkillsTable {
  agent_id: string;
  skill_id: string;
  user_id: string;
  enabled: boolean;
}
