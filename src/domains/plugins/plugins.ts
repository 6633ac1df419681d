import type { Kysely, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { CommandTool, InstanceAgent, InstanceSkill } from '../../gateway/instance-config.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import { Assignments } from './assignments.js';
import type { AgentPluginsAnswer, CreatePlugin, PluginAnswer, UpdatePlugin } from './plugins.schema.js';
import * as store from './plugins.store.js';

/** The user's skills of those names, by name; what it has not is left out. */
export type SkillsNamed = (db: Kysely<Schema>, userId: string, names: string[]) => Promise<Map<string, InstanceSkill>>;

export interface PluginsOptions {
  db: Kysely<Schema>;
  agents: Agents;
  skillsNamed: SkillsNamed;
}

/** What an agent has of one plugin, to be read. */
export interface PluginDocument {
  id: string;
  name: string;
  version: string;
  description: string | null;
  tools: CommandTool[];
  skills: InstanceSkill[];
}

/** Whose plugins are meant: a user's, or with null the installation's, which every user sees and only an admin changes. */
type Owner = string | null;

const PLUGINS_OF_A_USER = 200;

/** Packages of skills and tools, and which agent has which. A change is in the agents' next turns. */
export class Plugins {
  readonly #db: Kysely<Schema>;
  readonly #agents: Agents;
  readonly #skillsNamed: SkillsNamed;
  readonly #assignments: Assignments;

  constructor({ db, agents, skillsNamed }: PluginsOptions) {
    this.#db = db;
    this.#agents = agents;
    this.#skillsNamed = skillsNamed;
    this.#assignments = new Assignments({ db, agents, skillsNamed });
  }

  async create(owner: Owner, wish: CreatePlugin, caller: Caller, requestId: string): Promise<PluginAnswer> {
    const id = newId('plg');
    return this.#named(wish.name, () =>
      this.#db.transaction().execute(async (trx) => {
        if (owner !== null) await this.#agents.lock(trx, owner);
        if ((await store.countPlugins(trx, owner)) >= PLUGINS_OF_A_USER)
          throw new AppError('limit_exceeded', `there are ${PLUGINS_OF_A_USER} plugins, and no room for more`);
        await this.#checkSkills(trx, owner, wish.skills ?? []);
        const row = await store.insertPlugin(trx, owner, {
          id,
          name: wish.name,
          description: wish.description ?? null,
          version: wish.version ?? '1.0.0',
          enabled: wish.enabled ?? true,
          skills: JSON.stringify(wish.skills ?? []),
          tools: JSON.stringify(wish.tools ?? []),
        });
        if (owner !== null) await say(trx, owner, 'plugin.created', id, caller, requestId);
        return answerOf(row);
      }),
    );
  }

  /** A user's list holds the installation's plugins too. */
  async list(owner: Owner, page: PageRequest): Promise<Page<PluginAnswer>> {
    return pageOf(await store.listPlugins(this.#db, owner, page), page, null, answerOf);
  }

  /** By id or name. */
  async get(owner: Owner, plugin: string): Promise<PluginAnswer> {
    return answerOf(await this.#find(owner, plugin));
  }

  /** What is not named stays. `version`: the caller's guard. */
  async update(
    owner: Owner,
    plugin: string,
    wish: UpdatePlugin,
    version: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<PluginAnswer> {
    const { id } = await this.#findOwn(owner, plugin);
    const { skills, tools, ...rest } = wish;
    const changed = await this.#named(wish.name, () =>
      this.#db.transaction().execute(async (trx) => {
        await this.#lock(trx, owner, id, version);
        if (owner !== null) await this.#agents.lock(trx, owner);
        if (skills) await this.#checkSkills(trx, owner, skills);
        const row = await store.updatePlugin(trx, owner, id, {
          ...rest,
          ...(skills ? { skills: JSON.stringify(skills) } : {}),
          ...(tools ? { tools: JSON.stringify(tools) } : {}),
        });
        return { row, touched: await this.#touch(trx, owner, id, 'plugin.updated', caller, requestId) };
      }),
    );
    this.#agents.announce(changed.touched);
    return answerOf(changed.row);
  }

  /** Out of all agents too. */
  async delete(owner: Owner, plugin: string, version: number | undefined, caller: Caller, requestId: string): Promise<void> {
    const { id } = await this.#findOwn(owner, plugin);
    const touched = await this.#db.transaction().execute(async (trx) => {
      await this.#lock(trx, owner, id, version);
      const deployments = await this.#touch(trx, owner, id, 'plugin.deleted', caller, requestId, () =>
        store.deletePlugin(trx, owner, id),
      );
      return deployments;
    });
    this.#agents.announce(touched);
  }

  /** The agent's plugins with their details, in order of priority. */
  assigned(userId: string, agent: string): Promise<AgentPluginsAnswer> {
    return this.#assignments.get(userId, agent);
  }

  /** Replaces the agent's plugins; the order is the priority. */
  assign(userId: string, agent: string, plugins: string[], caller: Caller, requestId: string): Promise<AgentPluginsAnswer> {
    return this.#assignments.replace(userId, agent, plugins, caller, requestId);
  }

  /** What an agent has of each of its plugins; those that are disabled are left out. */
  documents(userId: string, agentId: string): Promise<PluginDocument[]> {
    return this.#assignments.documents(userId, agentId);
  }

  /** What the gateway of these agents must be told of their plugins. */
  describe(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string }[],
  ): Promise<Map<string, Pick<InstanceAgent, 'commands' | 'skills'>>> {
    return this.#assignments.describe(db, userId, agents);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deletePluginsOf(trx, userId);
  }

  async #find(owner: Owner, plugin: string): Promise<store.PluginRow> {
    const row = await store.findPlugin(this.#db, owner, plugin);
    if (!row) throw new AppError('not_found', 'plugin not found');
    return row;
  }

  async #findOwn(owner: Owner, plugin: string): Promise<store.PluginRow> {
    const row = await this.#find(owner, plugin);
    if (row.user_id === owner) return row;
    throw new AppError('forbidden', "the plugin is the installation's: only an admin may change it, at /admin/plugins");
  }

  async #lock(trx: Transaction<Schema>, owner: Owner, id: string, version: number | undefined): Promise<void> {
    const row = await store.lockPlugin(trx, owner, id);
    if (!row) throw new AppError('not_found', 'plugin not found');
    if (version === undefined || version === row.revision) return;
    throw new AppError('precondition_failed', 'the plugin has changed since that version');
  }

  /** An installation's plugin has no skills: skills are a user's. */
  async #checkSkills(trx: Transaction<Schema>, owner: Owner, names: string[]): Promise<void> {
    if (names.length === 0) return;
    const known = owner === null ? undefined : await this.#skillsNamed(trx, owner, names);
    const message = known ? 'is no skill of the user' : "must not be there: skills are a user's, and this plugin is for all";
    const fields = names.flatMap((name, i) => (known?.has(name) ? [] : [{ path: `skills.${i}`, message }]));
    if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields });
  }

  /**
   * Tells all agents that have the plugin, user by user, each user's event after its locks; `then` goes last, as what removes the rows by
   * which they are found. One transaction also for many users: a plugin that is switched off is off everywhere or nowhere.
   */
  async #touch(
    trx: Transaction<Schema>,
    owner: Owner,
    pluginId: string,
    event: string,
    caller: Caller,
    requestId: string,
    then?: () => Promise<void>,
  ): Promise<string[]> {
    const users = owner === null ? await store.usersWithPluginAcrossTenants(trx, pluginId) : [owner];
    const touched = new Set<string>();
    for (const userId of users) for (const id of await this.#touchUser(trx, userId, pluginId)) touched.add(id);
    await then?.();
    for (const userId of users) await say(trx, userId, event, pluginId, caller, requestId);
    return [...touched];
  }

  async #touchUser(trx: Transaction<Schema>, userId: string, pluginId: string): Promise<string[]> {
    await this.#agents.lock(trx, userId);
    const touched: string[] = [];
    for (const agentId of await store.agentsWithPlugin(trx, userId, pluginId)) {
      touched.push(...(await this.#agents.touch(trx, userId, agentId)));
    }
    return touched;
  }

  async #named<T>(name: string | undefined, write: () => Promise<T>): Promise<T> {
    try {
      return await write();
    } catch (error) {
      const taken = isUniqueViolation(error, 'plugins_name_key') || isUniqueViolation(error, 'plugins_installation_name_key');
      if (!taken) throw error;
      throw new AppError('conflict', `a plugin named ${name ?? ''} exists already`, {
        cause: error,
        fields: [{ path: 'name', message: 'is taken' }],
      });
    }
  }
}

function say(trx: Transaction<Schema>, userId: string, type: string, pluginId: string, caller: Caller, requestId: string) {
  return appendEvent(trx, userId, { type, actor: actorOf(caller), requestId, payload: { plugin_id: pluginId } });
}

function answerOf(row: store.PluginRow): PluginAnswer {
  return {
    id: row.id,
    scope: row.user_id === null ? 'installation' : 'user',
    name: row.name,
    description: row.description,
    version: row.version,
    enabled: row.enabled,
    skills: row.skills,
    tools: row.tools,
    revision: row.revision,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
