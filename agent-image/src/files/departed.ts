import { INCARNATION } from '../config.js';
import { systemCode } from './file-error.js';
import { within, type Folder } from './folder.js';
import type { Send } from './packing.js';
import { openIfThere, packParts, PARTS } from './state.js';
import type { Volume } from './volume.js';

/** States of agents that were removed and are still to be fetched: a folder for each, by incarnation, so that the name is free at once. */
const DEPARTED = ['.berth', 'departed'];

export class Departed {
  readonly #volume: Volume;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  /** Moves what an agent has aside. It can be done again where it broke off: what is there already stays. */
  take(agentId: string, incarnation: string): void {
    const kept = this.#volume.open([...DEPARTED, incarnation], { make: true });
    try {
      for (const [part, where] of Object.entries(PARTS)) {
        const path = where(agentId);
        const parent = openIfThere(this.#volume, path.slice(0, -1));
        if (!parent) continue;
        try {
          movePart(parent, path.at(-1) as string, kept, part);
        } finally {
          parent.close();
        }
      }
    } finally {
      kept.close();
    }
  }

  has(incarnation: string): boolean {
    const folder = INCARNATION.test(incarnation) ? openIfThere(this.#volume, [...DEPARTED, incarnation]) : undefined;
    folder?.close();
    return folder !== undefined;
  }

  pack(incarnation: string, send: Send): Promise<void> {
    return packParts(
      this.#volume,
      Object.keys(PARTS).map((part) => [part, [...DEPARTED, incarnation, part]] as const),
      send,
    );
  }

  /** Deletes those that nobody asks to keep any more. */
  async keepOnly(kept: ReadonlySet<string>): Promise<void> {
    const departed = openIfThere(this.#volume, DEPARTED);
    if (!departed) return;
    await within(departed, async (folder) => {
      for (const { name } of folder.entries()) if (!kept.has(name.toString('utf8'))) await this.#volume.discard(folder, name);
    });
  }
}

function movePart(from: Folder, name: string, to: Folder, part: string): void {
  if (!from.stat(name) || to.stat(part)) return;
  try {
    from.move(name, to, part);
  } catch (error) {
    // An agent may have taken its folder's permissions away: a folder cannot be moved without them.
    if (systemCode(error) !== 'EACCES') throw error;
    from.unlockFolder(name);
    from.move(name, to, part);
  }
}
