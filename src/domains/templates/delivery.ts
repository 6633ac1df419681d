import { capOf, MOST_CHARS_IN_ALL, type TemplateFile } from './files.js';
import { render, renderedLength, type Values } from './render.js';
import { tasksIn, withTools } from './sections.js';

/** The text of each file that holds for an agent, as it was written. */
export type Texts = Readonly<Record<TemplateFile, string>>;

/** What a gateway is told: files that Berth owns, and files that are written only where there is none. */
export interface Delivery {
  files: Record<string, string>;
  seeds?: Record<string, string>;
}

/** Something that would be longer than its cap once the variables are filled in. */
export interface Overflow {
  /** A file, or `total`. */
  file: TemplateFile | 'total';
  size: number;
  cap: number;
}

const WORKSPACE_FILES = ['AGENTS.md', 'SOUL.md', 'IDENTITY.md', 'USER.md'] as const;

/** A file's text as it is delivered, before its variables are filled in. */
export function sourceOf(texts: Texts, file: TemplateFile): string {
  return file === 'AGENTS.md' ? withTools(texts['AGENTS.md'], texts['TOOLS.md']) : texts[file];
}

export function deliver(texts: Texts, values: Values): Delivery {
  const files = Object.fromEntries(WORKSPACE_FILES.map((file) => [file, render(sourceOf(texts, file), values).text]));
  if (texts['MEMORY.md'] === '') return { files };
  return { files, seeds: { 'MEMORY.md': render(texts['MEMORY.md'], values).text } };
}

/** What the agent is to be told at each heartbeat, `{{date}}` still in it; empty where it is not to be woken. */
export function heartbeat(texts: Texts, values: Values): string {
  return render(tasksIn(texts['HEARTBEAT.md']), values).text;
}

/** Characters that the files have together in a prompt, their dates filled in. */
export function totalLength(texts: Texts, values: Values): number {
  return [...WORKSPACE_FILES, 'MEMORY.md' as const].reduce((sum, file) => sum + renderedLength(sourceOf(texts, file), values), 0);
}

/** Every cap that the delivered texts would break. TOOLS.md counts within AGENTS.md. */
export function overflows(texts: Texts, values: Values): Overflow[] {
  const found: Overflow[] = [];
  for (const file of [...WORKSPACE_FILES, 'HEARTBEAT.md', 'MEMORY.md'] as const) {
    const size = renderedLength(sourceOf(texts, file), values);
    if (size > capOf(file)) found.push({ file, size, cap: capOf(file) });
  }
  const size = totalLength(texts, values);
  if (size > MOST_CHARS_IN_ALL) found.push({ file: 'total', size, cap: MOST_CHARS_IN_ALL });
  return found;
}
