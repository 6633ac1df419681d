import type { Agent } from './agent.js';
import { joinParts, promptParts, type PromptPart } from './prompt.js';
import type { Sampling } from './sampling.js';
import { toolSchema, type Tool } from './tools/tool.js';
import type { Toolbox } from './tools/toolbox.js';

/** All that an agent's model is sent beside the conversation. */
export interface TurnContext {
  model: string;
  parts: PromptPart[];
  system: string;
  tools: readonly Tool[];
  /** The tools as the model is told of them. */
  schemas: readonly object[];
  sampling: Sampling;
}

/** The day that a turn which begins now has, `YYYY-MM-DD`. */
export function utcDay(): string {
  return new Date().toISOString().slice(0, 10);
}

/**
 * Puts a turn's context together. The only place that does: what `context` shows is what a turn sends because both come from here.
 * `system` is what the request itself adds.
 */
export function turnContext(agent: Agent, toolbox: Toolbox, today: string, system = ''): TurnContext {
  const { config } = agent;
  const tools = toolbox.of(config);
  const parts = promptParts({
    agent: config,
    toolNames: tools.map(({ name }) => name),
    skills: agent.skills,
    files: agent.workspace.promptFiles(today),
    system,
    today,
  });
  return {
    model: config.model,
    parts,
    system: joinParts(parts),
    tools,
    schemas: tools.map(toolSchema),
    sampling: config.sampling,
  };
}

/** The answer of `GET …/context`. */
export function describeContext(agent: Agent, { model, parts, system, schemas, sampling }: TurnContext): object {
  return { agent: agent.id, model, system, parts, tools: schemas, sampling, hidden_skills: agent.skills.hidden };
}
