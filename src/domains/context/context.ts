import type { ContextClient, GatewayContext } from '../../gateway/context.js';
import type { Agents } from '../agents/agents.js';
import type { PluginDocument, Plugins } from '../plugins/plugins.js';
import type { AssembledContextAnswer, ContextAnswer } from './context.schema.js';
import { fullReference, quickReference } from './tiers-of-plugins.js';
import type { TokenCounter } from './token-counter.js';

export interface ContextOptions {
  agents: Agents;
  plugins: Plugins;
  client: ContextClient;
  counter: TokenCounter;
  /** How long somebody waits for an agent that is not ready. */
  readyTimeoutMs: number;
}

/** Pieces of a prompt that say who the agent is. */
const PERSONA = ['SOUL.md', 'IDENTITY.md', 'instructions'];

type Tokens = ContextAnswer['tokens'];

/** What an agent's next turn will send its model. The instance puts that together, so it is asked; Berth adds what it knows of it. */
export class Context {
  readonly #options: ContextOptions;

  constructor(options: ContextOptions) {
    this.#options = options;
  }

  /** Waits for an agent that is on its way, as a chat does: what was changed a moment ago is in the answer. */
  async get(userId: string, agent: string, signal: AbortSignal): Promise<ContextAnswer> {
    const { agentId, name, context } = await this.#ask(userId, agent, signal);
    const { counts, encoding } = await this.#options.counter.count(textsOf(context));
    const ofParts = counts.slice(0, context.parts.length);
    const ofTools = counts.slice(context.parts.length);
    return {
      agent: name,
      agent_id: agentId,
      model: context.model,
      system: context.system,
      tools: context.tools,
      sampling: context.sampling,
      parts: context.parts.map((part, i) => ({ ...part, characters: part.text.length, tokens: ofParts[i] ?? 0 })),
      tool_tokens: context.tools.map((tool, i) => ({ name: nameOf(tool), tokens: ofTools[i] ?? 0 })),
      tokens: tokensOf(encoding, ofParts, ofTools),
      hidden_skills: context.hiddenSkills,
    };
  }

  /** The same in the words of Automatos: persona, and the plugins in two tiers. */
  async assembled(userId: string, agent: string, signal: AbortSignal): Promise<AssembledContextAnswer> {
    const { agentId, name, context } = await this.#ask(userId, agent, signal);
    const plugins = sentOf(await this.#options.plugins.documents(userId, agentId), context);
    const persona = context.parts.filter((part) => PERSONA.includes(part.name));
    const own = [persona.map(({ text }) => text).join('\n\n'), quickReference(plugins), fullReference(plugins)] as const;
    const { counts, encoding } = await this.#options.counter.count([...own, ...textsOf(context)]);
    const [personaTokens = 0, tier1Tokens = 0, tier2Tokens = 0, ...rest] = counts;
    const tokens = tokensOf(encoding, rest.slice(0, context.parts.length), rest.slice(context.parts.length));
    const { temperature } = context.sampling;
    return {
      agent_id: agentId,
      agent: name,
      model: context.model,
      temperature: typeof temperature === 'number' ? temperature : null,
      system_prompt: context.system,
      persona: { name, source: 'agent', parts: persona.map((part) => part.name), content: own[0], tokens: personaTokens },
      plugins_loaded: plugins.map((plugin) => plugin.name),
      tier1: { content: own[1], tokens: tier1Tokens },
      tier2: { content: own[2], tokens: tier2Tokens },
      tools: context.tools,
      token_estimate: tokens.total,
      tokens,
    };
  }

  async #ask(userId: string, agent: string, signal: AbortSignal) {
    const { agents, client, readyTimeoutMs } = this.#options;
    const { agentId, name, instanceId } = await agents.reach(userId, agent, { signal, timeoutMs: readyTimeoutMs });
    return { agentId, name, context: await client.read(instanceId, name, signal) };
  }
}

/** Parts, each with the empty line that follows it, then tools: what is counted. */
function textsOf({ parts, tools }: GatewayContext): string[] {
  const last = parts.length - 1;
  return [...parts.map(({ text }, i) => (i === last ? text : `${text}\n\n`)), ...tools.map((tool) => JSON.stringify(tool))];
}

function tokensOf(encoding: Tokens['encoding'], ofParts: number[], ofTools: number[]): Tokens {
  const [system, tools] = [sum(ofParts), sum(ofTools)];
  return { encoding, system, tools, total: system + tools };
}

function sum(counts: number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}

function nameOf(tool: Record<string, unknown>): string {
  return String((tool['function'] as { name?: unknown } | undefined)?.name ?? '');
}

/** The plugins as the instance really shows them: what the agent's config denies, or a missing requirement hides, is left out. */
function sentOf(plugins: PluginDocument[], { tools, hiddenSkills }: GatewayContext): PluginDocument[] {
  const sent = new Set(tools.map(nameOf));
  const hidden = new Set(hiddenSkills.map(({ name }) => name));
  return plugins.map((plugin) => ({
    ...plugin,
    tools: plugin.tools.filter(({ name }) => sent.has(name)),
    skills: plugin.skills.filter(({ name }) => !hidden.has(name)),
  }));
}
