import { invalid } from './errors.js';

// Checks of what comes from outside. Each gives the value back, or throws 400 with the name of the field in its message.

/** `check(value)`, or undefined where the field is absent or null. */
export function optional<T>(value: unknown, check: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : check(value);
}

export function object(value: unknown, at: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${at}: must be an object`);
  return value as Record<string, unknown>;
}

export function text(value: unknown, at: string, most: number, least = 1): string {
  if (typeof value !== 'string') throw invalid(`${at}: must be a string`);
  if (value.length < least) throw invalid(`${at}: must not be empty`);
  if (value.length > most) throw invalid(`${at}: at most ${most} characters`);
  return value;
}

export function number(value: unknown, at: string, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most))
    throw invalid(`${at}: must be a number from ${least} to ${most}`);
  return value;
}

export function integer(value: unknown, at: string, least: number, most: number): number {
  if (!Number.isInteger(value)) throw invalid(`${at}: must be a whole number`);
  return number(value, at, least, most);
}

export function boolean(value: unknown, at: string): boolean {
  if (typeof value !== 'boolean') throw invalid(`${at}: must be true or false`);
  return value;
}

export function list<T>(value: unknown, at: string, most: number, check: (item: unknown, at: string) => T): T[] {
  if (!Array.isArray(value)) throw invalid(`${at}: must be a list`);
  if (value.length > most) throw invalid(`${at}: at most ${most}`);
  return value.map((item: unknown, i) => check(item, `${at}[${i}]`));
}

export function texts(value: unknown, at: string): string[] {
  return list(value, at, 1000, (item, place) => text(item, place, 256));
}

/** Throws where two of the list have the same name. `field` is what the name is called. */
export function distinct(names: readonly string[], at: string, field: string): void {
  const seen = new Set<string>();
  names.forEach((name, i) => {
    if (seen.has(name)) throw invalid(`${at}[${i}].${field}: appears twice`);
    seen.add(name);
  });
}
