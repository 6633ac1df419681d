/** What an answer of the registry holds at some place, if it is what it should be. Nothing of it is believed to have a shape. */
export type Loose = Record<string, unknown>;

const LONGEST_TEXT = 2_000;

export function recordAt(value: unknown, name: string): Loose | undefined {
  const found = isRecord(value) ? value[name] : undefined;
  return isRecord(found) ? found : undefined;
}

/** Text in one line, bounded, and without what a database or a terminal would choke on. */
export function textAt(value: unknown, name: string): string | undefined {
  const found = isRecord(value) ? value[name] : undefined;
  if (typeof found !== 'string') return undefined;
  const text = oneLine(found).slice(0, LONGEST_TEXT);
  return text === '' ? undefined : text;
}

export function numberAt(value: unknown, name: string): number | undefined {
  const found = isRecord(value) ? value[name] : undefined;
  return typeof found === 'number' && Number.isFinite(found) ? found : undefined;
}

export function listAt(value: unknown, name: string): unknown[] {
  const found = isRecord(value) ? value[name] : undefined;
  return Array.isArray(found) ? found.slice(0, 2_000) : [];
}

export function textsAt(value: unknown, name: string): string[] {
  return listAt(value, name)
    .filter((one): one is string => typeof one === 'string')
    .map((one) => oneLine(one).slice(0, 200))
    .slice(0, 50);
}

export function isRecord(value: unknown): value is Loose {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Surrogate}\p{Bidi_Control}\s]+/gu, ' ').trim();
}
