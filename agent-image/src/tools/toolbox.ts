import type { AgentConfig, CommandConfig } from '../config.js';
import type { Tool } from './tool.js';

export interface ToolboxOptions {
  builtIn: readonly Tool[];
  /** Makes a tool of a plugin's command; undefined where the environment lets nobody run commands. */
  command: ((config: CommandConfig) => Tool) | undefined;
}

/** Which tools an agent has: the built-in ones and those of its plugins, as far as its config lets it. */
export class Toolbox {
  readonly #options: ToolboxOptions;
  readonly #known = new WeakMap<AgentConfig, readonly Tool[]>();

  constructor(options: ToolboxOptions) {
    this.#options = options;
  }

  /** In the order in which models are told of them. */
  of(config: AgentConfig): readonly Tool[] {
    const known = this.#known.get(config);
    if (known) return known;
    const { builtIn, command } = this.#options;
    const all = [...builtIn, ...(command ? config.commands.map(command) : [])];
    const tools = all.filter(({ name }) => isAllowed(config, name));
    this.#known.set(config, tools);
    return tools;
  }
}

function isAllowed({ allow, deny }: AgentConfig, name: string): boolean {
  if (deny.has(name) || deny.has('*')) return false;
  return allow === undefined || allow.has(name) || allow.has('*');
}
