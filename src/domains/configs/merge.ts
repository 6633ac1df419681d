type Json = Record<string, unknown>;

/** RFC 7396. Objects that end up empty are left out: they say nothing. */
export function mergePatch(target: Json, patch: Json): Json {
  const merged = new Map(Object.entries(target));
  for (const [name, value] of Object.entries(patch)) {
    if (value === undefined) continue;
    if (value === null) merged.delete(name);
    else if (isObject(value)) {
      const before = merged.get(name);
      const inner = mergePatch(isObject(before) ? before : {}, value);
      if (Object.keys(inner).length > 0) merged.set(name, inner);
      else merged.delete(name);
    } else merged.set(name, value);
  }
  return Object.fromEntries(merged);
}

/** The same value, whatever the order of its fields. */
export function isSameJson(a: unknown, b: unknown): boolean {
  return canonical(a) === canonical(b);
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
