import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { InstanceSkill } from '../../gateway/instance-config.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Agents } from '../agents/agents.js';
import { instanceSkill, skillAnswer, versionAnswer } from './answers.js';
import { isEnabled, wishedExceptions } from './enabling.js';
import type { ReadSkill } from './frontmatter.js';
import { type SkillPackage, unpacked, zipOf } from './package.js';
import type {
  AgentSkillsAnswer,
  AssignSkills,
  SkillAnswer,
  SkillDetail,
  SkillVersionAnswer,
  UpdateSkill,
} from './skills.schema.js';
import * as store from './skills.store.js';
import type { RegistrySource } from './skills.table.js';
import { readUpload } from './upload.js';
import { Workbench } from './workbench.js';

/** Of one user, whatever the tier. */
export const SKILL_QUOTA = { skills: 200, bytes: 200_000_000, versionsEach: 50 };

export interface SkillsOptions {
  db: Kysely<Schema>;
  agents: Agents;
}

/** Who changes what they saw. */
export interface Change {
  caller: Caller;
  requestId: string;
  /** The version that the caller saw, where it says one. */
  ifVersion?: number | undefined;
}

/** A version that is to be kept. */
export interface NewVersion {
  name: string;
  package: SkillPackage;
  read: ReadSkill;
  source: RegistrySource | null;
  enabledFor: 'all' | 'none' | undefined;
}

type Outcome = 'created' | 'updated' | 'unchanged';

/** A user's skills: their versions, and which agents have which. Agents see a change in their next turn. */
export class Skills {
  readonly #db: Kysely<Schema>;
  readonly #agents: Agents;
  /** Shared by all that read packages. */
  readonly workbench = new Workbench();

  constructor({ db, agents }: SkillsOptions) {
    this.#db = db;
    this.#agents = agents;
  }

  async list(userId: string, page: PageRequest): Promise<Page<SkillAnswer>> {
    const [rows, total] = await Promise.all([store.listSkills(this.#db, userId, page), store.countSkills(this.#db, userId)]);
    return pageOf(rows, page, total, skillAnswer);
  }

  /** By name or id. */
  async get(userId: string, skill: string): Promise<SkillDetail> {
    const row = await this.#find(this.#db, userId, skill);
    const [files, agents] = await Promise.all([
      store.readFiles(this.#db, userId, row.digest),
      store.agentsWithSkill(this.#db, userId, row.id),
    ]);
    const having = agents.filter(({ enabled }) => enabled ?? row.enabled_for === 'all');
    return { ...skillAnswer(row), files, enabled_on: having.map(({ name }) => name) };
  }

  async versions(userId: string, skill: string): Promise<SkillVersionAnswer[]> {
    const row = await this.#find(this.#db, userId, skill);
    return (await store.listVersions(this.#db, userId, row.id)).map((version) => versionAnswer(version, row.current));
  }

  /** The files of a version (the current one unless told), as one file. */
  async download(
    userId: string,
    skill: string,
    format: 'zip' | 'tar',
    number?: number,
  ): Promise<{ name: string; bytes: Buffer }> {
    const row = await this.#find(this.#db, userId, skill);
    const version = await store.findVersion(this.#db, userId, row.id, number ?? row.current);
    const tar = version && (await store.readTar(this.#db, userId, version.digest));
    if (!tar) throw new AppError('not_found', 'skill version not found');
    const bytes = format === 'tar' ? tar : await this.workbench.use(async () => zipOf(row.name, await unpacked(tar)));
    return { name: `${row.name}.${format}`, bytes };
  }

  /** Creates the skill, or adds a version to it; the same files again are no new version. */
  async upload(
    userId: string,
    name: string,
    body: { bytes: Buffer; contentType: string; enabledFor: 'all' | 'none' | undefined },
    change: Change,
  ): Promise<{ skill: SkillAnswer; outcome: Outcome }> {
    const folder = name.startsWith('skl_') ? (await this.#find(this.#db, userId, name)).name : name;
    return this.workbench.use(async () => {
      const { package: made, read } = await readUpload(folder, body);
      return this.keep(userId, { name: folder, package: made, read, source: null, enabledFor: body.enabledFor }, change);
    });
  }

  /** Keeps a version that was read and checked, and gives it to the agents. */
  async keep(userId: string, wish: NewVersion, change: Change): Promise<{ skill: SkillAnswer; outcome: Outcome }> {
    const kept = await this.#change(userId, change, async (trx) => {
      const found = await store.findSkill(trx, userId, wish.name);
      if (found && change.ifVersion !== undefined && found.version !== change.ifVersion) throw movedOn();
      if (!found && change.ifVersion !== undefined) throw new AppError('not_found', 'skill not found');
      if (!found) await this.#checkCount(trx, userId);
      if (await store.keepPackage(trx, userId, wish.package)) await this.#checkBytes(trx, userId);
      const outcome = found ? await this.#addVersion(trx, userId, found, wish) : await this.#create(trx, userId, wish);
      const row = await this.#find(trx, userId, wish.name);
      const touched = outcome === 'unchanged' ? [] : await this.#agents.touchAll(trx, userId);
      return { answer: { skill: skillAnswer(row), outcome }, row, type: `skill.${outcome}`, touched };
    });
    return kept;
  }

  async update(userId: string, skill: string, wish: UpdateSkill, change: Change): Promise<SkillAnswer> {
    return this.#change(userId, change, async (trx) => {
      const row = await this.#find(trx, userId, skill);
      const { enabled_for, current_version: current, pinned } = wish;
      if (current !== undefined && !(await store.findVersion(trx, userId, row.id, current)))
        throw wrongField('current_version', 'is no version of the skill');
      const held = await store.updateSkill(trx, userId, row.id, { enabled_for, current, pinned }, change.ifVersion);
      if (!held) throw movedOn();
      const now = await this.#find(trx, userId, row.id);
      return { answer: skillAnswer(now), row: now, type: 'skill.updated', touched: await this.#agents.touchAll(trx, userId) };
    });
  }

  async delete(userId: string, skill: string, change: Change): Promise<void> {
    await this.#change(userId, change, async (trx) => {
      const row = await this.#find(trx, userId, skill);
      if (change.ifVersion !== undefined && row.version !== change.ifVersion) throw movedOn();
      await store.deleteSkill(trx, userId, row.id);
      await store.dropUnused(trx, userId);
      return { answer: undefined, row, type: 'skill.deleted', touched: await this.#agents.touchAll(trx, userId) };
    });
  }

  /** The row of a skill, for those who look before they fetch something. */
  find(userId: string, skill: string): Promise<store.SkillRow | undefined> {
    return store.findSkill(this.#db, userId, skill);
  }

  async ofAgent(userId: string, agent: string): Promise<AgentSkillsAnswer> {
    return this.#ofAgent(this.#db, userId, await this.#agents.get(userId, agent));
  }

  /** Replaces what the agent says itself; of all other skills it has what all have. */
  async assign(userId: string, agent: string, wish: AssignSkills, change: Change): Promise<AgentSkillsAnswer> {
    const { answer, touched } = await this.#db.transaction().execute(async (trx) => {
      await this.#agents.lock(trx, userId);
      const { id, name } = await this.#agents.getIn(trx, userId, agent);
      const rows = await store.allSkills(trx, userId);
      await store.replaceExceptions(trx, userId, id, wishedExceptions(rows, wish));
      const deployments = await this.#agents.touch(trx, userId, id);
      const now = await this.#ofAgent(trx, userId, { id, name });
      const { caller, requestId } = change;
      await appendEvent(trx, userId, {
        type: 'agent.skills_changed',
        actor: actorOf(caller),
        requestId,
        payload: { agent_id: id },
      });
      return { answer: now, touched: deployments };
    });
    this.#agents.announce(touched);
    return answer;
  }

  /** What gateways are told of their agents' skills. */
  async describe(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string }[],
  ): Promise<Map<string, { skills: InstanceSkill[] }>> {
    const ids = agents.map(({ id }) => id);
    const [rows, exceptions] = await Promise.all([store.allSkills(db, userId), store.exceptionsOf(db, userId, ids)]);
    return new Map(
      ids.map((id) => [id, { skills: rows.filter((row) => isEnabled(row, id, exceptions)).map(instanceSkill) }] as const),
    );
  }

  /** Skills by what they are called, name or id, as gateways are told of them; those that are not there are left out. */
  async named(db: Kysely<Schema>, userId: string, names: readonly string[]): Promise<Map<string, InstanceSkill>> {
    const rows = await store.allSkills(db, userId);
    const found = names.map((said) => [said, rows.find(({ id, name }) => name === said || id === said)] as const);
    return new Map(found.flatMap(([said, row]) => (row ? [[said, instanceSkill(row)] as const] : [])));
  }

  /** The canonical tar of a digest, if the user has it. */
  packageOf(userId: string, digest: string): Promise<Buffer | undefined> {
    return store.readTar(this.#db, userId, digest);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteAllSkills(trx, userId);
  }

  /** One change of a skill: the user held, the event written last, the deployments told after the commit. */
  async #change<T>(
    userId: string,
    { caller, requestId }: Change,
    act: (trx: Transaction<Schema>) => Promise<{ answer: T; row: store.SkillRow; type: string; touched: string[] }>,
  ): Promise<T> {
    const { answer, touched } = await this.#db.transaction().execute(async (trx) => {
      await this.#agents.lock(trx, userId);
      const done = await act(trx);
      const { row, type } = done;
      const payload = { skill_id: row.id, name: row.name, version: row.current };
      if (type !== 'skill.unchanged') await appendEvent(trx, userId, { type, actor: actorOf(caller), requestId, payload });
      return done;
    });
    this.#agents.announce(touched);
    return answer;
  }

  async #create(trx: Transaction<Schema>, userId: string, wish: NewVersion): Promise<Outcome> {
    const id = newId('skl');
    const origin = wish.source === null ? 'upload' : 'registry';
    const enabled_for = wish.enabledFor ?? 'all';
    await store.insertSkill(trx, userId, { id, name: wish.name, origin, enabled_for, current: 1, last_number: 1 });
    await store.insertVersion(trx, userId, versionRow(id, 1, wish));
    return 'created';
  }

  async #addVersion(trx: Transaction<Schema>, userId: string, found: store.SkillRow, wish: NewVersion): Promise<Outcome> {
    const enabledFor = wish.enabledFor ?? found.enabled_for;
    if (found.digest === wish.package.digest) {
      if (enabledFor === found.enabled_for) return 'unchanged';
      await store.updateSkill(trx, userId, found.id, { enabled_for: enabledFor }, undefined);
      return 'updated';
    }
    const number = found.last_number + 1;
    await store.insertVersion(trx, userId, versionRow(found.id, number, wish));
    const origin = wish.source === null ? 'upload' : 'registry';
    const values = { current: number, last_number: number, enabled_for: enabledFor, origin } as const;
    await store.updateSkill(trx, userId, found.id, values, undefined);
    await store.dropOldVersions(trx, userId, found.id, SKILL_QUOTA.versionsEach);
    await store.dropUnused(trx, userId);
    return 'updated';
  }

  async #checkCount(trx: Transaction<Schema>, userId: string): Promise<void> {
    const have = await store.countSkills(trx, userId);
    if (have < SKILL_QUOTA.skills) return;
    throw new AppError('limit_exceeded', `a user may have ${SKILL_QUOTA.skills} skills; ${have} exist`);
  }

  async #checkBytes(trx: Transaction<Schema>, userId: string): Promise<void> {
    const kept = await store.bytesKept(trx, userId);
    if (kept <= SKILL_QUOTA.bytes) return;
    throw new AppError(
      'limit_exceeded',
      `the versions of all skills of a user may have ${SKILL_QUOTA.bytes} bytes; with this one they would have ${kept}`,
    );
  }

  async #ofAgent(db: Kysely<Schema>, userId: string, agent: { id: string; name: string }): Promise<AgentSkillsAnswer> {
    const [rows, exceptions] = await Promise.all([store.allSkills(db, userId), store.exceptionsOf(db, userId, [agent.id])]);
    const said = new Map(exceptions.map(({ skill_id, enabled }) => [skill_id, enabled]));
    const named = (wanted: boolean) => rows.filter(({ id }) => said.get(id) === wanted).map(({ name }) => name);
    return {
      agent: agent.name,
      enabled: named(true),
      disabled: named(false),
      skills: rows.map((row) => ({
        id: row.id,
        name: row.name,
        description: row.head.description,
        enabled: isEnabled(row, agent.id, exceptions),
        because: said.has(row.id) ? ('agent' as const) : ('all' as const),
        requires: row.head.requires ?? {},
      })),
    };
  }

  async #find(db: Kysely<Schema>, userId: string, skill: string): Promise<store.SkillRow> {
    const row = await store.findSkill(db, userId, skill);
    if (!row) throw new AppError('not_found', 'skill not found');
    return row;
  }
}

function versionRow(skillId: string, number: number, wish: NewVersion) {
  const { head, warnings } = wish.read;
  return { skill_id: skillId, number, digest: wish.package.digest, head, warnings, source: wish.source };
}

function movedOn(): AppError {
  return new AppError('precondition_failed', 'the skill has changed since that version');
}
