import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import type { FilesClient } from '../../gateway/files.js';
import type { Log } from '../../lib/log.js';
import { messageOf } from '../../lib/errors.js';
import type { Runtime } from '../../runtime/runtime.js';
import { isFull, type Measured, throttledShare } from './disk-full.js';
import * as store from './vitals.store.js';

export interface VitalsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  runtime: Pick<Runtime, 'diskUse' | 'stats'>;
  files: Pick<FilesClient, 'usage'>;
  log: Log;
  /** How often each that runs is measured; one whose disk is full six times as often. */
  everyS: number;
}

type CpuPeriods = { all: number; throttled: number };

/** So many are measured at once, and in one go: measuring is nothing that anybody waits for. */
const AT_ONCE = 4;
const AT_A_TIME = 40;
const USAGE_TIMEOUT_MS = 20_000;
const MIB = 1024 * 1024;
/** Of so many instances it is kept what was seen last. */
const REMEMBERED = 5_000;

/** Measures what runs: how full its disk is, and how much it is held back. Whoever looks at a status reads what was noted and asks nobody. */
export class Vitals {
  readonly #options: VitalsOptions;
  readonly #periods = new Map<string, CpuPeriods>();

  constructor(options: VitalsOptions) {
    this.#options = options;
  }

  /** Measures those that are due, whichever process they are of. What cannot be measured now is tried again in its turn. */
  async measure(signal: AbortSignal): Promise<void> {
    const due = await store.claimToMeasureAcrossTenants(this.#options.db, AT_A_TIME, this.#options.everyS);
    const hands = Array.from({ length: AT_ONCE }, async () => {
      for (let one = due.pop(); one !== undefined && !signal.aborted; one = due.pop()) await this.#measureOne(one, signal);
    });
    await Promise.all(hands);
  }

  /** A process of an instance was killed for want of memory, and the instance may have gone on. */
  async noteOom(instanceId: string, deploymentId: string): Promise<void> {
    await store.countOomAcrossTenants(this.#options.db, instanceId);
    this.#options.bus.publish('deployment', deploymentId);
  }

  async #measureOne(one: store.ToMeasure, signal: AbortSignal): Promise<void> {
    for (const part of [() => this.#measureDisk(one, signal), () => this.#measureCpu(one)]) {
      try {
        await part();
      } catch (error) {
        this.#options.log.debug({ deployment: one.id, err: error }, `not measured: ${messageOf(error)}`);
      }
    }
  }

  async #measureDisk(one: store.ToMeasure, signal: AbortSignal): Promise<void> {
    const measured = await this.#look(one, signal);
    if (measured === undefined) return;
    const usedBytes = measured.kind === 'hard' ? measured.use.usedBytes : measured.usedBytes;
    const usedMib = Math.ceil(usedBytes / MIB);
    const { db } = this.#options;
    if (usedMib !== one.disk_used_mib) await store.writeDiskUsed(db, one.user_id, one.id, usedMib);
    const [wasFull, isNowFull] = [one.disk_full_at !== null, isFull(measured, one.disk_full_at !== null)];
    if (wasFull !== isNowFull) await this.#turn(one, isNowFull, usedMib);
  }

  async #look(
    { disk, volume, agent, instance_id, disk_mib }: store.ToMeasure,
    signal: AbortSignal,
  ): Promise<Measured | undefined> {
    if (disk === 'hard') {
      const use = await this.#options.runtime.diskUse(volume);
      return use && { kind: 'hard', use };
    }
    if (agent === null) return undefined;
    const inTime = AbortSignal.any([signal, AbortSignal.timeout(USAGE_TIMEOUT_MS)]);
    const { bytes } = await this.#options.files.usage({ instanceId: instance_id, agent }, inTime);
    return { kind: 'soft', usedBytes: bytes, limitMib: disk_mib };
  }

  async #turn(one: store.ToMeasure, isNowFull: boolean, usedMib: number): Promise<void> {
    await this.#options.db.transaction().execute(async (trx) => {
      if (!(await store.writeDiskFull(trx, one.user_id, one.id, isNowFull))) return;
      const type = isNowFull ? 'deployment.disk_full' : 'deployment.disk_freed';
      const payload = { deployment_id: one.id, bound: one.disk, used_mib: usedMib };
      await appendEvent(trx, one.user_id, { type, actor: 'system', requestId: null, payload });
    });
    this.#options.bus.publish('deployment', one.id);
  }

  async #measureCpu({ instance_id: id, instance_name: name, user_id, cpu_throttled: noted }: store.ToMeasure): Promise<void> {
    const periods = (await this.#options.runtime.stats(name))?.cpuPeriods;
    const share = throttledShare(periods, this.#periods.get(id));
    if (periods === undefined || share === null) return;
    this.#remember(id, periods);
    const rounded = Math.round(share * 100) / 100;
    if (rounded !== noted) await store.writeThrottled(this.#options.db, user_id, id, rounded);
  }

  #remember(instanceId: string, periods: CpuPeriods): void {
    this.#periods.delete(instanceId);
    this.#periods.set(instanceId, periods);
    const [oldest] = this.#periods.keys();
    if (this.#periods.size > REMEMBERED && oldest !== undefined) this.#periods.delete(oldest);
  }
}
