import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { InstanceAgent } from '../../gateway/instance-config.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, type FieldError } from '../../lib/errors.js';
import type { PluginDocument, PluginsOptions } from './plugins.js';
import type { AgentPluginsAnswer } from './plugins.schema.js';
import * as store from './plugins.store.js';
import { resolvePlugins } from './resolve.js';

/** Which agent has which plugins, and what comes of that. */
export class Assignments {
  readonly #options: PluginsOptions;

  constructor(options: PluginsOptions) {
    this.#options = options;
  }

  async get(userId: string, agent: string): Promise<AgentPluginsAnswer> {
    const { agents, db } = this.#options;
    const { agentId } = await agents.route(userId, agent);
    return this.#answer(db, userId, agentId);
  }

  async replace(userId: string, agent: string, wished: string[], caller: Caller, requestId: string): Promise<AgentPluginsAnswer> {
    const { agents, db } = this.#options;
    // Known before anything is locked: an agent that is not there is said first.
    await agents.route(userId, agent);
    const { answer, touched } = await db.transaction().execute(async (trx) => {
      const ids = idsOf(wished, await store.holdPlugins(trx, userId, [...new Set(wished)]));
      await agents.lock(trx, userId);
      const { id: agentId } = await agents.getIn(trx, userId, agent);
      await store.assignPlugins(trx, userId, agentId, ids);
      const deployments = await agents.touch(trx, userId, agentId);
      const said = await this.#answer(trx, userId, agentId);
      const payload = { agent_id: agentId, plugin_ids: ids };
      await appendEvent(trx, userId, { type: 'agent.plugins_changed', actor: actorOf(caller), requestId, payload });
      return { answer: said, touched: deployments };
    });
    agents.announce(touched);
    return answer;
  }

  async describe(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string }[],
  ): Promise<Map<string, Pick<InstanceAgent, 'commands' | 'skills'>>> {
    const rows = await store.assignedPlugins(
      db,
      userId,
      agents.map(({ id }) => id),
    );
    const resolved = agents.map(({ id }) => ({ id, ...resolvePlugins(rows.filter((row) => row.agent_id === id)) }));
    const names = [...new Set(resolved.flatMap(({ skills }) => skills))];
    const known = names.length === 0 ? undefined : await this.#options.skillsNamed(db, userId, names);
    return new Map(
      resolved.map(({ id, commands, skills }) => [id, { commands, skills: skills.flatMap((name) => known?.get(name) ?? []) }]),
    );
  }

  async documents(userId: string, agentId: string): Promise<PluginDocument[]> {
    const { db, skillsNamed } = this.#options;
    const rows = (await store.assignedPlugins(db, userId, [agentId])).filter(({ enabled }) => enabled);
    const { commands, tools, skills } = resolvePlugins(rows);
    const known = skills.length === 0 ? undefined : await skillsNamed(db, userId, skills);
    return rows.map((row) => ({
      id: row.id,
      name: row.name,
      version: row.version,
      description: row.description,
      tools: commands.filter((_, i) => tools[i]?.plugin_id === row.id),
      skills: row.skills.flatMap((name) => known?.get(name) ?? []),
    }));
  }

  async #answer(db: Kysely<Schema>, userId: string, agentId: string): Promise<AgentPluginsAnswer> {
    const rows = await store.assignedPlugins(db, userId, [agentId]);
    const names = [...new Set(rows.flatMap(({ skills }) => skills))];
    const known = names.length === 0 ? undefined : await this.#options.skillsNamed(db, userId, names);
    const { tools, leftOut } = resolvePlugins(rows);
    return {
      agent_id: agentId,
      plugin_ids: rows.map(({ id }) => id),
      items: rows.map((row) => itemOf(row, (name) => known?.has(name) ?? false)),
      tools,
      left_out: leftOut,
    };
  }
}

/** Ids of the plugins that were named, each once, in their order. Unknown and disabled ones are refused where they stand. */
function idsOf(wished: string[], found: store.PluginRow[]): string[] {
  const fields: FieldError[] = [];
  const ids = wished.map((wish, i) => {
    const plugin = found.find(({ id, name }) => id === wish || name === wish);
    const path = `plugin_ids.${i}`;
    if (!plugin) fields.push({ path, message: 'is no plugin of the user or of the installation' });
    else if (!plugin.enabled) fields.push({ path, message: 'is disabled' });
    return plugin?.id ?? '';
  });
  if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields });
  return [...new Set(ids)];
}

function itemOf(row: store.AssignedPlugin, hasSkill: (name: string) => boolean): AgentPluginsAnswer['items'][number] {
  return {
    plugin_id: row.id,
    priority: row.priority,
    scope: row.user_id === null ? 'installation' : 'user',
    name: row.name,
    description: row.description,
    version: row.version,
    enabled: row.enabled,
    skills: row.skills,
    missing_skills: row.skills.filter((name) => !hasSkill(name)),
    skills_count: row.skills.length,
    commands: row.tools.map(({ name }) => name),
    commands_count: row.tools.length,
    assigned_at: row.assigned_at.toISOString(),
  };
}
