import { constants } from 'node:fs';
import { chmod, copyFile, mkdir, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Folder } from '../files/folder.js';
import { errorCode } from '../log.js';
import type { Trash } from '../trash.js';
import { enterOrReplace, enterToWrite, type Workspace } from '../workspace.js';

const SKILLS = 'skills';

/**
 * Puts a package's files into the workspace as `skills/<name>/`, in place of whatever is there. They are copied out of the agent's sight and
 * moved in as a whole: where the agent has put links, none is followed, and no half of a skill is ever seen.
 */
export async function installSkill(workspace: Workspace, name: string, from: string, trash: Trash): Promise<void> {
  const made = await trash.scratch();
  try {
    await copyTree(from, made);
    await inSkills(workspace, enterOrReplace, async (skills) => {
      await removeEntry(skills, name, trash);
      moveIn(made, skills, name);
    });
  } finally {
    await trash.remove(made);
  }
}

/** Takes a skill out of the workspace, if it is there. */
export async function removeSkill(workspace: Workspace, name: string, trash: Trash): Promise<void> {
  try {
    await inSkills(workspace, enterToWrite, (skills) => removeEntry(skills, name, trash));
  } catch (error) {
    // Without that folder, there are no skills in it.
    if (!['ENOENT', 'ENOTDIR', 'ELOOP'].includes(errorCode(error))) throw error;
  }
}

/** Whether a skill's folder is in the workspace; what is in it is the agent's business. */
export function hasSkill(workspace: Workspace, name: string): boolean {
  const root = workspace.open();
  try {
    const skills = enterOrReplace(root, SKILLS);
    try {
      return skills.stat(name)?.isDirectory() === true;
    } finally {
      skills.close();
    }
  } finally {
    root.close();
  }
}

async function inSkills(
  workspace: Workspace,
  enter: (parent: Folder, name: string) => Folder,
  work: (skills: Folder) => Promise<void>,
): Promise<void> {
  const root = workspace.open();
  try {
    const skills = enter(root, SKILLS);
    try {
      await work(skills);
    } finally {
      skills.close();
    }
  } finally {
    root.close();
  }
}

async function removeEntry(folder: Folder, name: string, trash: Trash): Promise<void> {
  if (!folder.stat(name)) return;
  const bin = await trash.scratch();
  const parent = Folder.open(dirname(bin));
  try {
    folder.unlockFolder(name);
    folder.move(name, parent, basename(bin));
  } finally {
    parent.close();
  }
  trash.removeLater(bin);
}

function moveIn(path: string, folder: Folder, name: string): void {
  const parent = Folder.open(dirname(path));
  try {
    parent.move(basename(path), folder, name);
  } finally {
    parent.close();
  }
}

/** Copies files and folders; whatever else an agent may have put among the packages is left aside. */
async function copyTree(from: string, to: string): Promise<void> {
  await mkdir(to);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (entry.isDirectory()) await copyTree(source, target);
    else if (entry.isFile()) await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  }
  await chmod(to, 0o755);
}
