import { isDeepStrictEqual } from 'node:util';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { type Clock, systemClock } from '../../lib/clock.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Page, PageRequest } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import { agentAnswer, userAnswer } from './answers.js';
import { type AgentRow, checkCaps, checkDefaults, checkHistory, checkRoom } from './checks.js';
import { deliver, type Delivery, heartbeat } from './delivery.js';
import { TEMPLATE_FILES, type TemplateFile } from './files.js';
import { History, HISTORY_ROW_BYTES } from './history.js';
import { Layers } from './layers.js';
import { withDate } from './render.js';
import type {
  AgentTemplatesAnswer,
  DiffAnswer,
  UserTemplatesAnswer,
  VariablesAnswer,
  VersionAnswer,
  VersionTextAnswer,
  WriteTemplates,
  WriteVariables,
} from './templates.schema.js';
import * as store from './templates.store.js';
import { merged, variablesAnswer } from './variables.js';

export interface TemplatesOptions {
  db: Kysely<Schema>;
  agents: Agents;
  clock?: Clock;
}

/** Who writes, under which request, and the version that was seen (any, if undefined). */
export interface Writing {
  guard?: number | undefined;
  caller: Caller;
  requestId: string;
}

/** Whose templates: an agent's, by name or id, or the user's defaults. */
export type Scope = string | undefined;

/** The user as it stands in a transaction that changes it. */
interface Before {
  layers: Layers;
  agents: AgentRow[];
  variables: { version: number; at: Date | null };
}

/** The texts that shape agents, in layers, with their variables and their history. */
export class Templates {
  readonly #db: Kysely<Schema>;
  readonly #agents: Agents;
  readonly #clock: Clock;
  readonly #history: History;

  constructor({ db, agents, clock = systemClock }: TemplatesOptions) {
    this.#db = db;
    this.#agents = agents;
    this.#clock = clock;
    this.#history = new History({ db });
  }

  async defaults(userId: string): Promise<UserTemplatesAnswer> {
    return userAnswer(await this.#read(this.#db, userId, []));
  }

  async ofAgent(userId: string, agent: string): Promise<AgentTemplatesAnswer> {
    const found = await this.#find(this.#db, userId, agent);
    return agentAnswer(await this.#read(this.#db, userId, [found.id]), found, this.#now());
  }

  /** Merges texts into the user's defaults; in the next turn of every agent that has none of its own. */
  async writeDefaults(userId: string, wish: WriteTemplates, writing: Writing): Promise<UserTemplatesAnswer> {
    return userAnswer((await this.#write(userId, undefined, async () => wish, writing)).layers);
  }

  /** Merges texts into what the agent has of its own; in its next turn. */
  async writeAgent(userId: string, agent: string, wish: WriteTemplates, writing: Writing): Promise<AgentTemplatesAnswer> {
    const { layers, target } = await this.#write(userId, agent, async () => wish, writing);
    return agentAnswer(layers, target!, this.#now());
  }

  /** Makes the text of that version, or its absence, the newest again. */
  async restore(
    userId: string,
    scope: Scope,
    file: TemplateFile,
    version: number,
    writing: Writing,
  ): Promise<UserTemplatesAnswer | AgentTemplatesAnswer> {
    const wish = async (trx: Transaction<Schema>, agentId: string | null) => ({
      [file]: (await this.#history.read(trx, userId, { agentId, file }, version)).text,
    });
    const { layers, target } = await this.#write(userId, scope, wish, writing);
    return target ? agentAnswer(layers, target, this.#now()) : userAnswer(layers);
  }

  async versions(userId: string, scope: Scope, file: TemplateFile, page: PageRequest): Promise<Page<VersionAnswer>> {
    return this.#history.list(userId, await this.#keyOf(userId, scope, file), page);
  }

  async version(userId: string, scope: Scope, file: TemplateFile, version: number): Promise<VersionTextAnswer> {
    return this.#history.get(userId, await this.#keyOf(userId, scope, file), version);
  }

  async diff(
    userId: string,
    scope: Scope,
    file: TemplateFile,
    sides: { from?: number | undefined; to?: number | undefined },
  ): Promise<DiffAnswer> {
    return this.#history.diff(userId, await this.#keyOf(userId, scope, file), sides);
  }

  /** Removes the versions before that one for good, as where a text held what it should not. */
  async forget(
    userId: string,
    scope: Scope,
    file: TemplateFile,
    before: number,
    { caller, requestId }: Writing,
  ): Promise<number> {
    return this.#db.transaction().execute(async (trx) => {
      await this.#agents.lock(trx, userId);
      const agentId = scope === undefined ? null : (await this.#find(trx, userId, scope)).id;
      const removed = await store.deleteOldVersions(trx, userId, { agentId, file }, before, HISTORY_ROW_BYTES);
      const payload = { agent_id: agentId, file, before, removed };
      await appendEvent(trx, userId, { type: 'template.versions_removed', actor: actorOf(caller), requestId, payload });
      return removed;
    });
  }

  async variables(userId: string): Promise<VariablesAnswer> {
    const owner = await this.#owner(this.#db, userId);
    const layers = new Layers(ownerOf(owner), await store.readCurrent(this.#db, userId, undefined));
    return variablesAnswer(layers, { version: owner.variables_version ?? 0, at: owner.variables_updated_at });
  }

  /** Merges values; in the next turn of every agent. */
  async writeVariables(userId: string, wish: WriteVariables, writing: Writing): Promise<VariablesAnswer> {
    const { answer, touched } = await this.#db.transaction().execute(async (trx) => {
      const before = await this.#before(trx, userId);
      checkGuard(writing.guard, before.variables.version, 'variables');
      const variables = merged(before.layers.owner.variables, wish);
      if (isDeepStrictEqual(variables, before.layers.owner.variables)) {
        return { answer: variablesAnswer(before.layers, before.variables), touched: [] };
      }
      const layers = before.layers.copy(variables);
      checkDefaults(layers);
      checkCaps(layers, before.agents);
      checkRoom(layers, before.agents, before.layers);
      const { version, updated_at } = await store.writeVariables(trx, userId, variables);
      const deploymentIds = await this.#agents.touchAll(trx, userId);
      await appendEvent(trx, userId, {
        type: 'template.variables_updated',
        actor: actorOf(writing.caller),
        requestId: writing.requestId,
        payload: { names: Object.keys(wish) },
      });
      return { answer: variablesAnswer(layers, { version, at: updated_at }), touched: deploymentIds };
    });
    this.#agents.announce(touched);
    return answer;
  }

  /** What the gateway of these agents is told of their files: two queries, however many they are. */
  async filesFor(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string; name: string }[],
  ): Promise<Map<string, Delivery>> {
    const ids = agents.map(({ id }) => id);
    const layers = await this.#read(db, userId, ids);
    return new Map(agents.map((agent) => [agent.id, deliver(layers.texts(agent.id), layers.values(agent))]));
  }

  /** `payload_too_large` where the user's agents, as they are in the transaction, would be more than their gateways take. */
  async checkRoom(trx: Transaction<Schema>, userId: string): Promise<void> {
    const agents = await store.readAgents(trx, userId);
    const ids = agents.map(({ id }) => id);
    checkRoom(await this.#read(trx, userId, ids), agents);
  }

  /** What the agent is told when it is woken on schedule, as of now; empty where it is not to be woken. */
  async heartbeatOf(db: Kysely<Schema>, userId: string, agentId: string): Promise<string> {
    const agent = await this.#find(db, userId, agentId);
    const layers = await this.#read(db, userId, [agent.id]);
    return withDate(heartbeat(layers.texts(agent.id), layers.values(agent)), this.#now());
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.eraseTemplates(trx, userId);
  }

  async #write(
    userId: string,
    scope: Scope,
    wishOf: (trx: Transaction<Schema>, agentId: string | null) => Promise<WriteTemplates>,
    writing: Writing,
  ): Promise<{ layers: Layers; target: AgentRow | undefined }> {
    const { layers, target, touched } = await this.#db.transaction().execute(async (trx) => {
      const { layers: before, agents } = await this.#before(trx, userId);
      const agent = scope === undefined ? undefined : agents.find(({ id, name }) => id === scope || name === scope);
      if (scope !== undefined && !agent) throw new AppError('not_found', 'agent not found');
      const agentId = agent?.id ?? null;
      checkGuard(writing.guard, before.version(agentId), 'templates');
      const changes = changesOf(before, agentId, await wishOf(trx, agentId));
      if (changes.length === 0) return { layers: before, target: agent, touched: [] };
      const after = await this.#insert(trx, before, agents, { agentId, changes, actor: actorOf(writing.caller) });
      return { layers: after, target: agent, touched: await this.#tell(trx, userId, agentId, changes, writing) };
    });
    this.#agents.announce(touched);
    return { layers, target };
  }

  /** Writes the next versions, and checks what they make of the agents before the commit. */
  async #insert(
    trx: Transaction<Schema>,
    before: Layers,
    agents: AgentRow[],
    { agentId, changes, actor }: { agentId: string | null; changes: Change[]; actor: string },
  ): Promise<Layers> {
    const after = before.copy();
    for (const { file, text } of changes) {
      const last = before.newest(agentId, file);
      const version = (last?.version ?? 0) + 1;
      const keptBytes = (last?.keptBytes ?? 0) + HISTORY_ROW_BYTES + Buffer.byteLength(text ?? '');
      const row = { id: newId('tpl'), version, text, kept_bytes: keptBytes, actor };
      const at = await store.insertVersion(trx, before.owner.id, { agentId, file }, row);
      after.set(agentId, file, { version, text, at, keptBytes });
    }
    const concerned = agents.filter(({ id }) => agentId === null || id === agentId);
    if (agentId === null) checkDefaults(after);
    checkCaps(after, concerned);
    const deploymentIds = new Set(concerned.map((agent) => agent.deployment_id));
    const beside = agents.filter((agent) => deploymentIds.has(agent.deployment_id));
    checkRoom(after, beside, before);
    checkHistory(after);
    return after;
  }

  /** Marks who must be told; a HEARTBEAT.md is read when the agent is woken, so nobody needs to be told of it. */
  async #tell(
    trx: Transaction<Schema>,
    userId: string,
    agentId: string | null,
    changes: Change[],
    { caller, requestId }: Writing,
  ): Promise<string[]> {
    let touched: string[] = [];
    if (changes.some(({ file }) => file === 'HEARTBEAT.md')) await this.#agents.beats.changed(trx, userId, agentId);
    if (changes.some(({ file }) => file !== 'HEARTBEAT.md')) {
      touched = agentId === null ? await this.#agents.touchAll(trx, userId) : await this.#agents.touch(trx, userId, agentId);
    }
    const payload = { agent_id: agentId, files: changes.map(({ file }) => file) };
    await appendEvent(trx, userId, { type: 'template.updated', actor: actorOf(caller), requestId, payload });
    return touched;
  }

  async #before(trx: Transaction<Schema>, userId: string): Promise<Before> {
    await this.#agents.lock(trx, userId);
    const owner = await this.#owner(trx, userId);
    const agents = await store.readAgents(trx, userId);
    const rows = await store.readCurrent(trx, userId, undefined);
    const variables = { version: owner.variables_version ?? 0, at: owner.variables_updated_at };
    return { layers: new Layers(ownerOf(owner), rows), agents, variables };
  }

  async #read(db: Kysely<Schema>, userId: string, agentIds: string[]): Promise<Layers> {
    const owner = ownerOf(await this.#owner(db, userId));
    return new Layers(owner, await store.readCurrent(db, userId, agentIds));
  }

  async #owner(db: Kysely<Schema>, userId: string) {
    const owner = await store.readOwner(db, userId);
    if (!owner) throw new AppError('not_found', 'user not found');
    return owner;
  }

  async #find(db: Kysely<Schema>, userId: string, agent: string): Promise<{ id: string; name: string }> {
    const found = await store.findAgent(db, userId, agent);
    if (!found) throw new AppError('not_found', 'agent not found');
    return found;
  }

  async #keyOf(userId: string, scope: Scope, file: TemplateFile): Promise<store.FileKey> {
    return { agentId: scope === undefined ? null : (await this.#find(this.#db, userId, scope)).id, file };
  }

  #now(): Date {
    return new Date(this.#clock.now());
  }
}

interface Change {
  file: TemplateFile;
  text: string | null;
}

/** What the wish would really change: a text that stands already makes no new version. */
function changesOf(layers: Layers, agentId: string | null, wish: WriteTemplates): Change[] {
  return TEMPLATE_FILES.flatMap((file) => {
    const text = wish[file];
    if (text === undefined || text === (layers.newest(agentId, file)?.text ?? null)) return [];
    return [{ file, text }];
  });
}

function checkGuard(guard: number | undefined, version: number, what: string): void {
  if (guard === undefined || guard === version) return;
  throw new AppError('precondition_failed', `the ${what} have changed since that version`);
}

function ownerOf({ id, name, variables }: { id: string; name: string; variables: Record<string, string> | null }) {
  return { id, name, variables: variables ?? {} };
}
