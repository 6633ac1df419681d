import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { InstanceAgent } from '../../gateway/instance-config.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import type { AgentAnswer } from '../agents/agents.schema.js';
import type { By, Deployments } from '../deployments/deployments.js';
import type { ConfigAnswer, ConfigChanged, ConfigDocument, ConfigPatch, ConfigVersion } from './configs.schema.js';
import * as store from './configs.store.js';
import { changedFields, effectiveOf, type Ground, isToldToGateway, replacesContainer, settingsOf } from './effective.js';
import { everyMs, type Heartbeat, HEARTBEAT_EVERY } from './heartbeat.schema.js';
import { patchDocument, type Return, returned } from './patch.js';
import { Placing } from './placing.js';

export interface ConfigsOptions {
  db: Kysely<Schema>;
  agents: Agents;
  deployments: Deployments;
  defaultModel: string;
  /** Throws `invalid_request` when no provider serves the model. */
  checkModel: (model: string) => void;
  /** Images that an agent may be given besides the usual one. */
  images: readonly string[];
}

/** When an agent is to be woken. */
export interface Beat {
  /** 0: never. */
  everyMs: number;
  activeHours: Heartbeat['active_hours'];
}

/** What an agent's config is now: the newest version, or the one that would be written if what others changed were recorded. */
interface Present {
  version: number;
  document: ConfigDocument;
  /** Not recorded yet: the first look at an agent, or a model that was changed by another route. */
  isDrift: boolean;
  updatedAt: Date | null;
}

/** What the document is to be, by what it is. */
type Wish = (trx: Transaction<Schema>, before: ConfigDocument, agent: AgentAnswer) => ConfigDocument | Promise<ConfigDocument>;

interface Change {
  agent: AgentAnswer;
  before: Present;
  after: ConfigDocument;
}

/** Versions of one agent that are kept; the oldest go. */
const VERSIONS_KEPT = 1_000;
/** Stands for a version that is not recorded yet. */
const NOT_RECORDED = `cfv_${'0'.repeat(26)}`;

/** What shapes one agent's turns and its container: documents above defaults, each version kept. */
export class Configs {
  readonly #options: ConfigsOptions;
  readonly #db: Kysely<Schema>;
  readonly #placing: Placing;

  constructor(options: ConfigsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#placing = new Placing(options);
  }

  async get(userId: string, agentName: string): Promise<ConfigAnswer> {
    const agent = await this.#options.agents.get(userId, agentName);
    return this.#answer(agent, await this.#presentIn(this.#db, userId, agent), await this.#groundIn(this.#db, userId));
  }

  /** `version`: the caller's guard. Answers what changed, and whether a new container is on its way for it. */
  patch(
    userId: string,
    agentName: string,
    patch: ConfigPatch,
    version: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<ConfigChanged> {
    return this.#change(userId, agentName, (_, before) => patchDocument(before, patch), version, caller, requestId);
  }

  /** Makes the config what it was at that version. */
  restore(
    userId: string,
    agentName: string,
    wanted: number,
    version: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<ConfigChanged> {
    const find = async (trx: Transaction<Schema>, { isolation }: ConfigDocument, agent: AgentAnswer) => {
      const row = await store.readVersion(trx, userId, agent.id, wanted);
      if (!row) throw new AppError('not_found', 'version not found');
      // A container of its own is kept whatever was before it.
      return { ...row.document, ...(isolation ? { isolation } : {}) };
    };
    return this.#change(userId, agentName, find, version, caller, requestId);
  }

  async versions(userId: string, agentName: string, page: PageRequest): Promise<Page<ConfigVersion>> {
    const agent = await this.#options.agents.get(userId, agentName);
    const rows = await store.listVersions(this.#db, userId, agent.id, page);
    const total = await store.countVersions(this.#db, userId, agent.id);
    const present = await this.#presentIn(this.#db, userId, agent);
    const isFirstPage = page.after === undefined && page.offset === 0;
    const shown = present.isDrift && isFirstPage ? [driftRow(userId, agent, present), ...rows] : rows;
    return pageOf(shown, page, total + (present.isDrift ? 1 : 0), versionOf);
  }

  async version(userId: string, agentName: string, version: number): Promise<ConfigVersion> {
    const agent = await this.#options.agents.get(userId, agentName);
    const row = await store.readVersion(this.#db, userId, agent.id, version);
    if (row) return versionOf(row);
    const present = await this.#presentIn(this.#db, userId, agent);
    if (present.isDrift && present.version === version) return versionOf(driftRow(userId, agent, present));
    throw new AppError('not_found', 'version not found');
  }

  /** For the assembly: what each agent's gateway is told besides the model. */
  async settingsFor(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string }[],
  ): Promise<Map<string, Partial<InstanceAgent>>> {
    const documents = await store.readDocuments(
      db,
      userId,
      agents.map(({ id }) => id),
    );
    return new Map([...documents].map(([id, document]) => [id, settingsOf(document)]));
  }

  /** When each of these agents is to be woken. */
  async beatsFor(db: Kysely<Schema>, userId: string, agentIds: readonly string[]): Promise<Map<string, Beat>> {
    const documents = await store.readDocuments(db, userId, agentIds);
    return new Map(
      agentIds.map((id) => {
        const { every = HEARTBEAT_EVERY, active_hours: activeHours } = documents.get(id)?.heartbeat ?? {};
        return [id, { everyMs: everyMs(every) ?? 0, activeHours }];
      }),
    );
  }

  /** A patch as part of a change: whoever makes it records what it does to deployments, and announces the answered ones after its commit. */
  async patchIn(trx: Transaction<Schema>, userId: string, agent: string, patch: ConfigPatch, by: By): Promise<string[]> {
    return (await this.#changeIn(trx, userId, agent, (_, before) => patchDocument(before, patch), undefined, by)).touched;
  }

  /** Makes the config, and the container with it, what they were. As part of a change, like `patchIn`. */
  async returnIn(trx: Transaction<Schema>, userId: string, agentName: string, to: Return, by: By): Promise<string[]> {
    const wish: Wish = async (_, { isolation }, { id }) => {
      const row = to.version === 0 ? undefined : await store.readVersion(trx, userId, id, to.version);
      if (!row && to.version > 0) {
        const message = `was at version ${to.version}, which is no longer kept`;
        throw new AppError('conflict', `the config ${message}`, { fields: [{ path: 'config_version', message }] });
      }
      return returned(row?.document ?? {}, to, { isolation, defaultModel: this.#options.defaultModel });
    };
    return (await this.#changeIn(trx, userId, agentName, wish, undefined, by)).touched;
  }

  async #change(
    userId: string,
    agentName: string,
    wish: Wish,
    guard: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<ConfigChanged> {
    const { agents, deployments } = this.#options;
    const by = { actor: actorOf(caller), requestId };
    const done = await this.#db.transaction().execute(async (trx) => {
      const changed = await this.#changeIn(trx, userId, agentName, wish, guard, by);
      await deployments.history.record(trx, userId, changed.touched, by);
      return changed;
    });
    agents.announce(done.touched);
    return done.answer;
  }

  async #changeIn(
    trx: Transaction<Schema>,
    userId: string,
    agentName: string,
    wish: Wish,
    guard: number | undefined,
    by: By,
  ): Promise<{ answer: ConfigChanged; touched: string[] }> {
    const { agents } = this.#options;
    await agents.lock(trx, userId);
    const agent = await agents.getIn(trx, userId, agentName);
    const before = await this.#presentIn(trx, userId, agent);
    if (guard !== undefined && guard !== before.version) {
      throw new AppError('precondition_failed', 'the config has changed since that version');
    }
    const after = await wish(trx, before.document, agent);
    const ground = await this.#groundIn(trx, userId);
    this.#check(before.document, after, ground);
    if (changedFields(before.document, after).length === 0) {
      return { answer: this.#unchanged(agent, before, ground), touched: [] };
    }
    return this.#write(trx, userId, { agent, before, after }, ground, by);
  }

  async #write(
    trx: Transaction<Schema>,
    userId: string,
    { agent, before, after }: Change,
    ground: Ground,
    by: By,
  ): Promise<{ answer: ConfigChanged; touched: string[] }> {
    const { agents } = this.#options;
    const touched = new Set(await this.#placing.apply(trx, userId, agent, after, changedFields(before.document, after)));
    const model = after.model ?? ground.model;
    if (model !== agent.model) await agents.setIn(trx, userId, agent.id, { model });
    // Read anew: it may have been given a container of its own.
    const document = this.#withTruth(after, await agents.getIn(trx, userId, agent.id));
    const changed = changedFields(before.document, document);
    if (before.isDrift) await store.insertVersion(trx, userId, { ...driftRow(userId, agent, before), id: newId('cfv') });
    const version = before.version + 1;
    await store.insertVersion(trx, userId, {
      id: newId('cfv'),
      agent_id: agent.id,
      version,
      document,
      changed,
      actor: by.actor,
    });
    await store.dropOldVersions(trx, userId, agent.id, version - VERSIONS_KEPT + 1);
    if (changed.includes('heartbeat')) await agents.beats.changed(trx, userId, agent.id);
    if (isToldToGateway(changed)) for (const id of await agents.touch(trx, userId, agent.id)) touched.add(id);
    const now = await agents.getIn(trx, userId, agent.id);
    const answer = this.#answer(now, await this.#presentIn(trx, userId, now), ground);
    const replaces = replacesContainer(changed, now.deployment_id !== agent.deployment_id);
    const payload = { agent_id: agent.id, version, fields: changed };
    await appendEvent(trx, userId, { type: 'config.updated', ...by, payload });
    const applies = replaces.length > 0 ? ('replaces_container' as const) : ('live' as const);
    return {
      answer: { ...answer, changed, applies, replaces_container: replaces },
      touched: [...touched.add(now.deployment_id)],
    };
  }

  #unchanged(agent: AgentAnswer, present: Present, ground: Ground): ConfigChanged {
    return { ...this.#answer(agent, present, ground), changed: [], applies: 'live', replaces_container: [] };
  }

  /** What can only be known here: providers, tier, images. Only what changes is looked at: what was allowed once may stay. */
  #check(before: ConfigDocument, after: ConfigDocument, { limits }: Ground): void {
    const changed = changedFields(before, after);
    if (changed.includes('model') && after.model !== undefined) this.#options.checkModel(after.model);
    const fields = (Object.keys(limits) as (keyof typeof limits)[])
      .filter((name) => changed.includes('limits') && (after.limits?.[name] ?? 0) > limits[name])
      .map((name) => ({ path: `limits.${name}`, message: `must be at most ${limits[name]}, as the tier has it` }));
    if (changed.includes('image') && after.image !== undefined && !this.#options.images.includes(after.image)) {
      const offered = this.#options.images.join(', ');
      fields.push({
        path: 'image',
        message: offered === '' ? 'the operator offers no other images' : `must be one of ${offered}`,
      });
    }
    if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields });
  }

  async #presentIn(db: Kysely<Schema>, userId: string, agent: AgentAnswer): Promise<Present> {
    const row = await store.readNewest(db, userId, agent.id);
    const document = this.#withTruth(row?.document ?? {}, agent);
    const isDrift = row === undefined || changedFields(row.document, document).length > 0;
    return { version: (row?.version ?? 0) + (isDrift ? 1 : 0), document, isDrift, updatedAt: row?.created_at ?? null };
  }

  /** The document with what other routes may have changed, or an operator taken back, since it was written. */
  #withTruth(written: ConfigDocument, agent: AgentAnswer): ConfigDocument {
    const { image, ...document } = written;
    delete document.model;
    delete document.network;
    delete document.isolation;
    return {
      ...document,
      ...(agent.model === this.#options.defaultModel ? {} : { model: agent.model }),
      ...(agent.network.mode === 'none' ? {} : { network: agent.network }),
      ...(image !== undefined && this.#options.images.includes(image) ? { image } : {}),
      ...(agent.isolation === 'dedicated' ? { isolation: 'dedicated' as const } : {}),
    };
  }

  async #groundIn(db: Kysely<Schema>, userId: string): Promise<Ground> {
    const limits = await store.readTierLimits(db, userId);
    if (!limits) throw new AppError('not_found', 'user not found');
    return { model: this.#options.defaultModel, limits };
  }

  #answer(agent: AgentAnswer, present: Present, ground: Ground): ConfigAnswer {
    return {
      agent: agent.name,
      version: present.version,
      config: effectiveOf(present.document, ground, agent.isolation),
      document: present.document,
      defaults: effectiveOf({}, ground, 'shared'),
      images: [...this.#options.images],
      updated_at: present.updatedAt?.toISOString() ?? null,
    };
  }
}

/** The version that the next change would record first. */
function driftRow(userId: string, agent: AgentAnswer, { version, document, updatedAt }: Present): store.ConfigRow {
  const createdAt = updatedAt ?? new Date(agent.created_at);
  return {
    id: NOT_RECORDED,
    user_id: userId,
    agent_id: agent.id,
    version,
    document,
    changed: [],
    actor: null,
    created_at: createdAt,
  };
}

function versionOf({ version, document, changed, actor, created_at }: store.ConfigRow): ConfigVersion {
  return { version, document, changed, actor, created_at: created_at.toISOString() };
}
