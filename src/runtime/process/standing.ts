import type { InstanceState } from '../runtime.js';
import { lookAt, type ProcessId } from './proc.js';
import type { Store } from './store.js';

/** How an instance stands, and the process to signal. */
export interface Standing {
  state: InstanceState;
  /** Undefined before the first start. */
  life?: string;
  startedAt?: number;
  exitCode?: number;
  error?: string;
  process?: ProcessId;
}

export function isUp({ state }: Standing): boolean {
  return state === 'running' || state === 'paused';
}

/**
 * Tells how an instance stands from what its shim wrote and from what lives. What lives comes first: a Berth killed in the
 * middle of a start leaves records of a life that did not begin beside those of one that did.
 */
export function standingOf(store: Store, boot: string, name: string): Standing {
  const launched = store.launch(name);
  if (!launched) return { state: 'created' };
  const state = store.state(name);
  const child = ofBoot(boot, state);
  const seen = lookAt(child);
  if (state && state.endedAt === undefined && seen !== 'gone') {
    return { state: seen === 'stopped' ? 'paused' : 'running', life: state.id, startedAt: state.startedAt, process: child };
  }
  const life = launched.id;
  const { startedAt, exitCode, error, endedAt } = state?.id === life ? state : {};
  if (endedAt !== undefined) return { state: 'exited', life, startedAt, exitCode, error };
  // The shim lives: it has not started its program yet, or has not written yet how that ended.
  if (lookAt(ofBoot(boot, store.shim(name))) !== 'gone') return { state: 'running', life, startedAt };
  return { state: 'exited', life, startedAt, exitCode: 137, error: 'it ended with its supervisor' };
}

function ofBoot(boot: string, found: { boot: string; pid?: number; began?: string } | undefined): ProcessId | undefined {
  if (found?.boot !== boot || found.pid === undefined || found.began === undefined) return undefined;
  return { pid: found.pid, began: found.began };
}
