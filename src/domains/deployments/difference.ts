import type { RevisionDocument } from './deployments.table.js';

/** One place in which two revisions differ; null: not there. */
export interface Difference {
  /** Such as `limits.memory_mib`, or `agents.manager.model`. */
  path: string;
  before: unknown;
  after: unknown;
}

/** Where two revisions differ, by path. Another agent of the same name differs in its id. */
export function differences(before: RevisionDocument | null, after: RevisionDocument): Difference[] {
  const [was, is] = [placesOf(before), placesOf(after)];
  const paths = [...new Set([...was.keys(), ...is.keys()])].toSorted();
  return paths
    .map((path) => ({ path, before: was.get(path) ?? null, after: is.get(path) ?? null }))
    .filter((place) => JSON.stringify(place.before) !== JSON.stringify(place.after));
}

function placesOf(document: RevisionDocument | null): Map<string, unknown> {
  const places = new Map<string, unknown>();
  if (document === null) return places;
  const { agents, ...rest } = document;
  note(places, '', rest);
  for (const { name, ...agent } of agents) note(places, `agents.${name}`, agent);
  return places;
}

/** Every value that is no object, by its path. */
function note(places: Map<string, unknown>, path: string, value: unknown): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    places.set(path, value);
    return;
  }
  for (const [name, inner] of Object.entries(value)) note(places, path === '' ? name : `${path}.${name}`, inner);
}
