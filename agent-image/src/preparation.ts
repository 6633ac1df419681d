import type { AgentConfig, SkillConfig } from './config.js';
import { utcDay } from './context.js';
import { errorCode, type Log } from './log.js';
import { writeMarker, type Marker } from './marker.js';
import { hasSkill, installSkill, removeSkill } from './packages/install.js';
import { writeLock } from './packages/lock.js';
import type { Packages } from './packages/packages.js';
import type { Trash } from './trash.js';
import type { Workspace } from './workspace.js';

export interface PreparationOptions {
  packages: Packages;
  trash: Trash;
  log: Log;
}

/** An agent's folders and files on the volume, as the marker beside them tells of them. */
export interface Site {
  workspace: Workspace;
  markerPath: string;
  /** What the marker said before. */
  before: Marker | undefined;
}

/** Makes an agent's workspace what its config wishes: its skills, then its files. */
export class Preparation {
  readonly #options: PreparationOptions;

  constructor(options: PreparationOptions) {
    this.#options = options;
  }

  /** Answers the skills that could not be put into the workspace, each with the reason in words. */
  async prepare(config: AgentConfig, { workspace, markerPath, before }: Site): Promise<Map<string, string>> {
    const { incarnation, files } = config;
    const owned = before?.owned ?? [];
    const installed = before?.skills ?? {};
    // Said before it is done: should this process die over it, the next one knows what may be Berth's.
    const begun: Marker = {
      incarnation,
      owned: [...new Set([...owned, ...files.keys()])],
      skills: { ...installed, ...Object.fromEntries(changed(config.skills, installed).map(({ name }) => [name, ''])) },
    };
    await writeIfOther(markerPath, begun, before);
    await workspace.make();
    const { skills, broken } = await this.#skills(config, workspace, begun.skills);
    await workspace.own(config, owned, utcDay());
    await writeIfOther(markerPath, { incarnation, owned: [...files.keys()], skills }, begun);
    return broken;
  }

  async #skills(
    config: AgentConfig,
    workspace: Workspace,
    installed: Record<string, string>,
  ): Promise<{ skills: Record<string, string>; broken: Map<string, string> }> {
    const skills: Record<string, string> = {};
    const broken = new Map<string, string>();
    const wished = new Set(config.skills.map(({ name }) => name));
    for (const name of Object.keys(installed)) {
      // What is not removed now stays in the marker, to be removed the next time.
      if (!wished.has(name) && (await this.#failure(name, () => this.#remove(workspace, name))) !== undefined) skills[name] = '';
    }
    for (const skill of config.skills) {
      const why = await this.#failure(skill.name, () => this.#install(workspace, skill, installed[skill.name]));
      skills[skill.name] = why === undefined ? skill.digest : '';
      if (why !== undefined) broken.set(skill.name, why);
    }
    await this.#failure('lock.json', () => writeLock(workspace, config.skills, Object.keys(installed)));
    return { skills, broken };
  }

  async #install(workspace: Workspace, { name, digest }: SkillConfig, installed: string | undefined): Promise<void> {
    const { packages, trash } = this.#options;
    if (installed === digest && hasSkill(workspace, name)) return;
    await installSkill(workspace, name, packages.folderOf(digest), trash);
  }

  #remove(workspace: Workspace, name: string): Promise<void> {
    return removeSkill(workspace, name, this.#options.trash);
  }

  /** A full disk must not keep an agent from being configured: it has one skill less, and what it is told says why. */
  async #failure(skill: string, work: () => Promise<void>): Promise<string | undefined> {
    try {
      await work();
      return undefined;
    } catch (error) {
      const code = errorCode(error);
      this.#options.log.warn('skill not put in place', { skill, code });
      if (code === 'ENOSPC' || code === 'EDQUOT') return 'the disk is full: its files are not in the workspace';
      return `its files could not be put into the workspace (${code})`;
    }
  }
}

function changed(skills: readonly SkillConfig[], installed: Record<string, string>): SkillConfig[] {
  return skills.filter(({ name, digest }) => installed[name] !== digest);
}

async function writeIfOther(path: string, marker: Marker, there: Marker | undefined): Promise<void> {
  if (JSON.stringify(marker) !== JSON.stringify(there)) await writeMarker(path, marker);
}
