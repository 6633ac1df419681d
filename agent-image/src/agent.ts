import type { AgentConfig } from './config.js';
import { viewSkills, type SkillsView } from './skills.js';
import type { Workspace } from './workspace.js';

/** An agent that can be talked to. It is the same object as long as the agent lives; its config is another with each that Berth sends. */
export class Agent {
  readonly workspace: Workspace;
  #config: AgentConfig;
  #variables: ReadonlyMap<string, string>;
  #skills: SkillsView;

  /** `broken` are the skills that could not be put into the workspace, and why. */
  constructor(workspace: Workspace, config: AgentConfig, broken: ReadonlyMap<string, string>) {
    this.workspace = workspace;
    this.#config = config;
    this.#variables = variablesOf(config);
    this.#skills = viewSkills(config, broken);
  }

  get id(): string {
    return this.#config.id;
  }

  get config(): AgentConfig {
    return this.#config;
  }

  /** The environment of its tools as the config in force has it: secrets over what is no secret. */
  get variables(): ReadonlyMap<string, string> {
    return this.#variables;
  }

  get skills(): SkillsView {
    return this.#skills;
  }

  /** Takes over a new config. Turns that run keep what they began with, but for the environment of the commands they start from now on. */
  update(config: AgentConfig, broken: ReadonlyMap<string, string>): void {
    this.#config = config;
    this.#variables = variablesOf(config);
    this.#skills = viewSkills(config, broken);
  }
}

function variablesOf({ env, secrets }: AgentConfig): ReadonlyMap<string, string> {
  return new Map([...env, ...secrets]);
}
