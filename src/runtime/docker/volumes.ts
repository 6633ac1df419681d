import { AppError } from '../../lib/errors.js';
import type { InstanceSpec, ObservedVolume } from '../runtime.js';
import type { Engine } from './engine.js';
import { statusOf } from './faults.js';
import { observeVolume, readVolume, readVolumes } from './observed.js';
import { LABEL, volumeOptions } from './options.js';

/** The data volumes of one installation. One without its labels is never touched. */
export class Volumes {
  readonly #engine: Engine;
  readonly #installationId: string;
  readonly #deadlines: { readMs: number; changeMs: number };

  constructor(engine: Engine, installationId: string, deadlines: { readMs: number; changeMs: number }) {
    this.#engine = engine;
    this.#installationId = installationId;
    this.#deadlines = deadlines;
  }

  /** Makes the volume unless it exists; throws `conflict` where the name belongs to something else. */
  async create(spec: InstanceSpec): Promise<void> {
    await this.#engine.call('creating the volume', this.#deadlines.changeMs, (docker, abortSignal) =>
      docker.createVolume({ ...volumeOptions(spec), abortSignal }),
    );
    // The engine answers the creation of a volume that exists with success, whoever it belongs to; so it is looked at after.
    const found = await this.#find(spec.volume);
    if (found?.deploymentId !== spec.deploymentId) {
      throw new AppError('conflict', `volume ${spec.volume} belongs to something else`);
    }
  }

  async remove(volume: string): Promise<void> {
    if (!(await this.#find(volume))) return;
    try {
      await this.#engine.call('removing the volume', this.#deadlines.changeMs, (docker, abortSignal) =>
        docker.getVolume(encodeURIComponent(volume)).remove({ abortSignal }),
      );
    } catch (error) {
      if (statusOf(error) === 409) throw new AppError('conflict', `volume ${volume} is in use`, { cause: error });
      if (statusOf(error) !== 404) throw error;
    }
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
    try {
      const answer = await this.#engine.call('inspecting the volume', this.#deadlines.readMs, (docker, abortSignal) =>
        docker.getVolume(encodeURIComponent(volume)).inspect({ abortSignal }),
      );
      return observeVolume(readVolume(answer), this.#installationId);
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }
}
