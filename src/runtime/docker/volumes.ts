import { AppError } from '../../lib/errors.js';
import type { InstanceSpec, ObservedVolume } from '../runtime.js';
import type { Disks } from './disks.js';
import type { Engine } from './engine.js';
import { statusOf } from './faults.js';
import { type InspectedVolume, observeVolume, readVolume, readVolumes } from './observed.js';
import { LABEL, volumeOptions } from './options.js';

/** The data volumes of one installation. One without its labels is never touched. */
export class Volumes {
  readonly #engine: Engine;
  readonly #installationId: string;
  readonly #deadlines: { readMs: number; changeMs: number };
  readonly #disks: Disks | undefined;

  constructor(engine: Engine, installationId: string, deadlines: { readMs: number; changeMs: number }, disks: Disks | undefined) {
    this.#engine = engine;
    this.#installationId = installationId;
    this.#deadlines = deadlines;
    this.#disks = disks;
  }

  /** The file systems of volumes that have one. Throws where this process cannot have them, though a volume does. */
  get disks(): Disks {
    if (this.#disks) return this.#disks;
    throw new AppError('unprocessable', 'the volume has a disk of its own, which this process of Berth does not look after');
  }

  /** Makes the volume unless it exists; throws `conflict` where the name belongs to something else. */
  async create(spec: InstanceSpec): Promise<void> {
    const folder = spec.diskMib === undefined ? undefined : await this.#makeDisk(spec, spec.diskMib);
    await this.#engine.call('creating the volume', this.#deadlines.changeMs, (docker, abortSignal) =>
      docker.createVolume({ ...volumeOptions(spec, folder), abortSignal }),
    );
    // The engine answers the creation of a volume that exists with success, whoever it belongs to; so it is looked at after.
    const found = await this.#find(spec.volume);
    if (found?.deploymentId !== spec.deploymentId) {
      throw new AppError('conflict', `volume ${spec.volume} belongs to something else`);
    }
  }

  async remove(volume: string): Promise<void> {
    if (await this.#find(volume)) await this.#removeFound(volume);
    else if (await this.#isForeign(volume)) return;
    await this.#disks?.remove(volume);
  }

  async #removeFound(volume: string): Promise<void> {
    try {
      await this.#engine.call('removing the volume', this.#deadlines.changeMs, (docker, abortSignal) =>
        docker.getVolume(encodeURIComponent(volume)).remove({ abortSignal }),
      );
    } catch (error) {
      if (statusOf(error) === 409) throw new AppError('conflict', `volume ${volume} is in use`, { cause: error });
      if (statusOf(error) !== 404) throw error;
    }
  }

  /** Not for a volume that is somebody else's: its disk is then theirs too. */
  async #makeDisk(spec: InstanceSpec, sizeMib: number): Promise<string> {
    if (await this.#isForeign(spec.volume, spec.deploymentId))
      throw new AppError('conflict', `volume ${spec.volume} belongs to something else`);
    return this.disks.make(spec.volume, sizeMib, spec.uid);
  }

  async #isForeign(volume: string, deploymentId?: string): Promise<boolean> {
    const found = await this.#inspect(volume);
    const owner = found && observeVolume(found, this.#installationId);
    return found !== undefined && (owner === undefined || (deploymentId !== undefined && owner.deploymentId !== deploymentId));
  }

  async list(): Promise<ObservedVolume[]> {
    const filters = { label: [`${LABEL.installation}=${this.#installationId}`] };
    const answer = await this.#engine.call('listing volumes', this.#deadlines.readMs, (docker, abortSignal) =>
      docker.listVolumes({ filters, abortSignal }),
    );
    return readVolumes(answer)
      .map((volume) => observeVolume(volume, this.#installationId))
      .filter((found) => found !== undefined);
  }

  async #find(volume: string): Promise<ObservedVolume | undefined> {
    const found = await this.#inspect(volume);
    return found && observeVolume(found, this.#installationId);
  }

  async #inspect(volume: string): Promise<InspectedVolume | undefined> {
    try {
      const answer = await this.#engine.call('inspecting the volume', this.#deadlines.readMs, (docker, abortSignal) =>
        docker.getVolume(encodeURIComponent(volume)).inspect({ abortSignal }),
      );
      return readVolume(answer);
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }
}
