import type { CommandTool } from '../../gateway/instance-config.js';
import { OWN_TOOLS } from './plugins.schema.js';
import type { AssignedPlugin } from './plugins.store.js';

/** Model APIs take 128 tools in a call; an agent's own and the client's need room too. */
export const TOOLS_AT_MOST = 100;
/** Of one agent's tools as JSON: a gateway is told of all agents of its deployment in one message. */
export const TOOL_CHARS_AT_MOST = 256_000;

interface ToolOf {
  name: string;
  plugin_id: string;
  plugin: string;
}

/** What an agent gets of its plugins. */
export interface Resolved {
  commands: CommandTool[];
  /** Names of skills, each once, in order. */
  skills: string[];
  /** Where each of `commands` is from. */
  tools: ToolOf[];
  /** Tools it does not get, and why. */
  leftOut: (ToolOf & { reason: string })[];
}

/** Makes of plugins in their order of priority what the agent gets: of tools with one name the first; of disabled plugins nothing. */
export function resolvePlugins(plugins: readonly AssignedPlugin[]): Resolved {
  const resolved: Resolved = { commands: [], skills: [], tools: [], leftOut: [] };
  let chars = 0;
  for (const plugin of plugins) {
    for (const { name, description, parameters, command } of plugin.tools) {
      const tool = { name, plugin_id: plugin.id, plugin: plugin.name };
      const size = JSON.stringify([name, description, parameters, command]).length;
      const reason = plugin.enabled ? whyNot(resolved, name, chars + size) : 'the plugin is disabled';
      if (reason !== undefined) {
        resolved.leftOut.push({ ...tool, reason });
        continue;
      }
      chars += size;
      resolved.tools.push(tool);
      resolved.commands.push({ name, description, parameters, command });
    }
    if (plugin.enabled) for (const skill of plugin.skills) if (!resolved.skills.includes(skill)) resolved.skills.push(skill);
  }
  return resolved;
}

function whyNot({ tools }: Resolved, name: string, chars: number): string | undefined {
  const first = tools.find((tool) => tool.name === name);
  if (first) return `${first.plugin} comes first and has a tool of this name`;
  // It was free when the plugin was written. A gateway would refuse it, and with it every change of its agents.
  if (OWN_TOOLS.includes(name)) return 'every agent has a tool of this name';
  if (tools.length >= TOOLS_AT_MOST) return `an agent has at most ${TOOLS_AT_MOST} tools of plugins`;
  if (chars > TOOL_CHARS_AT_MOST) return `the tools of an agent's plugins have at most ${TOOL_CHARS_AT_MOST} characters`;
  return undefined;
}
