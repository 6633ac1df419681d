import type { Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import type { Agents } from '../agents/agents.js';
import type { CreateAgent } from '../agents/agents.schema.js';
import type { Configs } from '../configs/configs.js';
import type { Plugins } from '../plugins/plugins.js';
import type { Skills } from '../skills/skills.js';
import type { Templates } from '../templates/templates.js';
import type { WriteTemplates } from '../templates/templates.schema.js';
import type { AgentSettings } from './archive.schema.js';

export interface ShapesOptions {
  agents: Agents;
  configs: Configs;
  plugins: Plugins;
  skills: Skills;
  templates: Templates;
  /** Throws `invalid_request` when no provider serves the model. */
  checkModel: (model: string) => void;
}

export type LeftOut = { what: string; why: string };

/** Who is said to have given an agent its settings. */
const BERTH: Caller = { kind: 'admin', keyId: 'berth' };
const NOT_HERE = 'the user has none of that name';

/** What owners make of their agents, read from the domains that keep it, and given to another agent. Secrets are no part of it. */
export class Shapes {
  readonly #options: ShapesOptions;

  constructor(options: ShapesOptions) {
    this.#options = options;
  }

  async read(userId: string, agent: string): Promise<AgentSettings & { id: string; name: string }> {
    const { agents, configs, templates, skills, plugins } = this.#options;
    const { id, name, description, model, instructions } = await agents.get(userId, agent);
    const [{ document }, texts, { enabled, disabled }, assigned] = await Promise.all([
      configs.get(userId, id),
      templates.ofAgent(userId, id),
      skills.ofAgent(userId, id),
      plugins.assigned(userId, id),
    ]);
    const own = Object.entries(texts.templates).filter(([, { source }]) => source === 'agent');
    return {
      id,
      name,
      description,
      model,
      instructions,
      config: document,
      templates: Object.fromEntries(own.map(([file, { text }]) => [file, text])) as WriteTemplates,
      skills: { enabled, disabled },
      plugins: assigned.items.map((item) => item.name),
    };
  }

  /** The wish for an agent with these settings, and what of them cannot be had here. */
  wish(name: string, settings: AgentSettings): { wish: CreateAgent; leftOut: LeftOut[] } {
    const { description, instructions, model, config } = settings;
    const leftOut: LeftOut[] = [];
    const has = this.#serves(model);
    if (!has) leftOut.push({ what: 'model', why: 'no provider of this installation serves it: it has the usual one' });
    const wish: CreateAgent = {
      name,
      ...(description === null ? {} : { description }),
      ...(instructions === null ? {} : { instructions }),
      ...(has ? { model } : {}),
      ...(config.isolation ? { isolation: config.isolation } : {}),
      ...(config.network ? { network: config.network } : {}),
    };
    return { wish, leftOut };
  }

  /** Gives the rest of the settings to an agent, each as far as it can be had; may be done again. Answers what was left out. */
  async give(userId: string, agentId: string, settings: AgentSettings): Promise<LeftOut[]> {
    const { configs, templates } = this.#options;
    const leftOut: LeftOut[] = [];
    const { model: _m, network: _n, isolation: _i, ...patch } = settings.config;
    await attempt('config', leftOut, () => configs.patch(userId, agentId, patch, undefined, BERTH, ''));
    await attempt('templates', leftOut, () =>
      templates.writeAgent(userId, agentId, settings.templates, { caller: BERTH, requestId: '' }),
    );
    await attempt('skills', leftOut, () => this.#giveSkills(userId, agentId, settings.skills, leftOut));
    await attempt('plugins', leftOut, () => this.#givePlugins(userId, agentId, settings.plugins, leftOut));
    return leftOut;
  }

  async #giveSkills(userId: string, agentId: string, wished: AgentSettings['skills'], leftOut: LeftOut[]): Promise<void> {
    const { skills } = this.#options;
    const known = new Set((await skills.ofAgent(userId, agentId)).skills.map(({ name }) => name));
    const there = (names: string[]) => names.filter((name) => known.has(name));
    for (const name of wished.enabled) if (!known.has(name)) leftOut.push({ what: `skill ${name}`, why: NOT_HERE });
    const wish = { enabled: there(wished.enabled), disabled: there(wished.disabled) };
    if (wish.enabled.length + wish.disabled.length === 0) return;
    await skills.assign(userId, agentId, wish, { caller: BERTH, requestId: '' });
  }

  async #givePlugins(userId: string, agentId: string, wished: string[], leftOut: LeftOut[]): Promise<void> {
    const { plugins } = this.#options;
    const known: string[] = [];
    for (const name of wished) {
      const isThere = await plugins.get(userId, name).then(({ enabled }) => enabled, isMissing);
      if (isThere) known.push(name);
      else leftOut.push({ what: `plugin ${name}`, why: NOT_HERE });
    }
    if (known.length > 0) await plugins.assign(userId, agentId, known, BERTH, '');
  }

  #serves(model: string): boolean {
    try {
      this.#options.checkModel(model);
      return true;
    } catch (error) {
      if (error instanceof AppError) return false;
      throw error;
    }
  }
}

/** What the domain itself refuses is left out; all else is a failure like any other. */
async function attempt(what: string, leftOut: LeftOut[], give: () => Promise<unknown>): Promise<void> {
  try {
    await give();
  } catch (error) {
    const refused = ['invalid_request', 'limit_exceeded', 'payload_too_large', 'conflict', 'unprocessable'];
    if (!(error instanceof AppError) || !refused.includes(error.code)) throw error;
    const fields = error.fields?.map(({ path, message }) => `${path} ${message}`).join('; ');
    leftOut.push({ what, why: (fields ?? error.message).slice(0, 1_000) });
  }
}

function isMissing(error: unknown): false {
  if (error instanceof AppError && error.code === 'not_found') return false;
  throw error;
}
