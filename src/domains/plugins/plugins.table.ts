import type { Generated, JSONColumnType } from 'kysely';

/** A tool of a plugin: a command for bash, which gets its arguments as JSON on standard input and in BERTH_ARGS. */
export interface PluginTool {
  name: string;
  description: string;
  /** JSON schema of an object. */
  parameters: Record<string, unknown>;
  command: string;
}

export interface PluginsTable {
  id: string;
  /** null: the installation's, for all users. */
  user_id: string | null;
  name: string;
  description: string | null;
  /** The author's word for this release; Berth counts its own changes in `revision`. */
  version: string;
  enabled: boolean;
  /** Names of skills of the user. */
  skills: JSONColumnType<string[], string, string>;
  tools: JSONColumnType<PluginTool[], string, string>;
  revision: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

/** Which agent has which plugin. */
export interface AgentPluginsTable {
  agent_id: string;
  plugin_id: string;
  user_id: string;
  /** From 0; of two plugins with a tool of the same name the lower number's is taken. */
  priority: number;
  assigned_at: Generated<Date>;
}
