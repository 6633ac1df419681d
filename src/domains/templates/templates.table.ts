import type { Generated } from 'kysely';
import type { TemplateFile } from './files.js';

/** A version of a template file. Rows are added, and removed when somebody asks to forget old ones; none is ever changed but for `is_current`. */
export interface TemplatesTable {
  id: string;
  user_id: string;
  /** null: the user's default for all agents. */
  agent_id: string | null;
  file: TemplateFile;
  /** Counts up from 1 by file, for each agent and for the defaults. */
  version: number;
  /** null: removed by this version. */
  text: string | null;
  /** Whether it is the newest. */
  is_current: Generated<boolean>;
  /** What all kept versions of the file take, as of this version. */
  kept_bytes: number | string;
  actor: string;
  created_at: Generated<Date>;
}

export interface TemplateVariablesTable {
  user_id: string;
  variables: Record<string, string>;
  version: Generated<number>;
  updated_at: Generated<Date>;
}
