import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** What is known of an agent that was here before: written beside its conversations, outside its workspace. Never anything secret. */
export interface Marker {
  incarnation: string;
  /** The workspace files that are, or may be, Berth's. */
  owned: string[];
  /** The skills that are, or may be, in the workspace, by name. The digest is empty where it is not sure which. */
  skills: Record<string, string>;
}

export async function readMarker(path: string): Promise<Marker | undefined> {
  try {
    const marker = JSON.parse(await readFile(path, 'utf8')) as Partial<Marker>;
    if (typeof marker.incarnation !== 'string' || !Array.isArray(marker.owned)) return undefined;
    const skills = Object.entries(marker.skills ?? {}).filter(([, digest]) => typeof digest === 'string');
    return {
      incarnation: marker.incarnation,
      owned: marker.owned.filter((name) => typeof name === 'string'),
      skills: Object.fromEntries(skills),
    };
  } catch {
    return undefined;
  }
}

export async function writeMarker(path: string, marker: Marker): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.tmp`, JSON.stringify(marker));
  await rename(`${path}.tmp`, path);
}
