import { createTwoFilesPatch, FILE_HEADERS_ONLY } from 'diff';

/** Beyond so many changed lines a shortest diff is no longer looked for: it would hold up everybody. */
const MOST_EDITS = 500;

export interface Side {
  name: string;
  text: string;
}

/** A unified diff; empty where the texts are equal. Texts that have next to nothing in common are shown as one replacing the other. */
export function unifiedDiff(from: Side, to: Side): string {
  if (from.text === to.text) return '';
  const options = { context: 3, maxEditLength: MOST_EDITS, headerOptions: FILE_HEADERS_ONLY };
  const patch = createTwoFilesPatch(from.name, to.name, from.text, to.text, undefined, undefined, options);
  return patch ?? replacement(from, to);
}

function replacement(from: Side, to: Side): string {
  const [gone, come] = [hunk('-', from.text), hunk('+', to.text)];
  const head = `--- ${from.name}\n+++ ${to.name}\n@@ -${range(gone.count)} +${range(come.count)} @@\n`;
  return head + gone.text + come.text;
}

function range(count: number): string {
  return count === 0 ? '0,0' : `1,${count}`;
}

function hunk(mark: '-' | '+', text: string): { text: string; count: number } {
  if (text === '') return { text: '', count: 0 };
  const ends = text.endsWith('\n');
  const lines = (ends ? text.slice(0, -1) : text).split('\n');
  const body = lines.map((line) => `${mark}${line}\n`).join('');
  return { text: ends ? body : `${body}\\ No newline at end of file\n`, count: lines.length };
}
