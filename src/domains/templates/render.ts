/** Anything between double braces on one line: what is not a known variable is reported rather than passed over as text. */
const PLACEHOLDER = /\{\{([^{}\n]{1,100})\}\}/g;

/** Left in the text for the instance, which puts in the day on which the turn begins. */
export const DATE = '{{date}}';
const LENGTH_OF_A_DATE = 'YYYY-MM-DD'.length;
const NAME_SHOWN_CHARS = 64;

/** The values of variables by name; `date` is none of them. */
export type Values = ReadonlyMap<string, string>;

export interface Rendered {
  text: string;
  /** Names that have no value, each once; they stand in the text as they were written. */
  unknown: string[];
}

/** Puts values in the place of `{{name}}`, in one pass: braces inside of a value are text. */
export function render(template: string, values: Values): Rendered {
  const unknown = new Set<string>();
  const text = template.replace(PLACEHOLDER, (written, inner: string) => {
    const name = inner.trim();
    if (name === 'date') return DATE;
    const value = values.get(name);
    if (value === undefined) unknown.add(name.slice(0, NAME_SHOWN_CHARS));
    return value ?? written;
  });
  return { text, unknown: [...unknown] };
}

/** How long the text will be in a prompt, its date filled in, without making it: a small template can become a very long text. */
export function renderedLength(template: string, values: Values): number {
  let length = template.length;
  for (const [written, inner = ''] of template.matchAll(PLACEHOLDER)) {
    const name = inner.trim();
    const becomes = name === 'date' ? LENGTH_OF_A_DATE : (values.get(name)?.length ?? written.length);
    length += becomes - written.length;
  }
  return length;
}

/** As the instance does it. */
export function withDate(text: string, now: Date): string {
  return text.replaceAll(DATE, now.toISOString().slice(0, 10));
}

/** The variables that Berth itself gives an agent. */
export function ownValues(agent: { id: string; name: string }, user: { id: string; name: string }): [string, string][] {
  return [
    ['agent.id', agent.id],
    ['agent.name', agent.name],
    ['user.id', user.id],
    ['user.name', user.name],
  ];
}
