import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { hostRoom } from '../../lib/host-room.js';
import type { Tiers } from '../tiers/tiers.js';
import { Admission, type HostRoom } from './admission.js';
import { POOL_TIER } from './work.store.js';

/** The settings that decide who may start. */
export interface AdmissionSettings {
  hostMemoryMib: number | undefined;
  memoryReserveMib: number | undefined;
  memoryOvercommit: number;
  startsAtOnce: number;
  engineDataDir: string;
  diskDir: string;
  diskReserveMib: number;
}

/** Admission by the operator's settings. A reserve that is not set is a tenth of the host. */
export function admissionOf(
  settings: AdmissionSettings,
  parts: { db: Kysely<Schema>; bus: Bus; tiers: Tiers; host: (() => Promise<HostRoom>) | undefined },
): Admission {
  const { db, bus, tiers } = parts;
  const host = parts.host ?? hostRoom({ memoryMib: settings.hostMemoryMib, folders: [settings.engineDataDir, settings.diskDir] });
  return new Admission({
    db,
    bus,
    host,
    limits: {
      reserveMib: settings.memoryReserveMib,
      overcommit: settings.memoryOvercommit / 100,
      startsAtOnce: settings.startsAtOnce,
      diskReserveMib: settings.diskReserveMib,
    },
    poolMib: async () => (await tiers.get(POOL_TIER)).memory_mib,
  });
}
