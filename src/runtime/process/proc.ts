import { readFileSync } from 'node:fs';
import type { InstanceStats } from '../runtime.js';

/** One process for ever: a pid comes again, a pid with its time of birth does not. */
export interface ProcessId {
  pid: number;
  /** In the kernel's ticks since boot. */
  began: string;
}

/** Linux gives process times in these on every machine it runs on. */
const TICKS_PER_SECOND = 100;

/** The fields of `/proc/<pid>/stat` after the program's name, which may hold spaces and brackets. */
function statOf(pid: number): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
  } catch {
    return undefined; // No such process, or gone between two reads.
  }
}

/** Identifies the process that has this pid now. */
export function identify(pid: number): ProcessId | undefined {
  const began = statOf(pid)?.[19];
  return began === undefined ? undefined : { pid, began };
}

/** Whether that very process lives, and whether it is stopped. A zombie does not live. */
export function lookAt(id: ProcessId | undefined): 'running' | 'stopped' | 'gone' {
  const fields = id && statOf(id.pid);
  if (!fields || fields[19] !== id.began || fields[0] === 'Z' || fields[0] === 'X') return 'gone';
  return fields[0] === 'T' || fields[0] === 't' ? 'stopped' : 'running';
}

/** Signals that very process, or with `group` all of its group; says whether there was one. */
export function signal(id: ProcessId | undefined, name: NodeJS.Signals, group = false): boolean {
  if (!id || lookAt(id) === 'gone') return false;
  try {
    process.kill(group ? -id.pid : id.pid, name);
    return true;
  } catch {
    return false; // It ended between the look and the signal.
  }
}

export function statsOf(id: ProcessId): InstanceStats | undefined {
  const fields = statOf(id.pid);
  if (!fields || lookAt(id) === 'gone') return undefined;
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readStatus(id.pid))?.[1];
  if (resident === undefined) return undefined;
  return { memoryBytes: Number(resident) * 1024, cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND };
}

function readStatus(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8');
  } catch {
    return ''; // Gone between two reads.
  }
}

/** Names this run of the machine: pids and ticks mean nothing in the next one. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return 'unknown'; // Not Linux, which the runtime's check says.
  }
}
