const HEADING = /^(#{1,6})(?=[ \t]|$)/;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const TOOLS_HEADING = /^## +tools *#*$/i;
const TITLE = /^#{1,2} +(?:tools|tools\.md) *#*$/i;

interface Line {
  text: string;
  /** 1 to 6 where the line is a heading, 0 where it is not; a `#` inside of a code block is none. */
  level: number;
}

/**
 * AGENTS.md with TOOLS.md as its section `## Tools`, which is where OpenClaw has its notes on tools since it retired the file. Where AGENTS.md
 * has that section, the notes are added to its end. Headings of the notes go below that of the section.
 */
export function withTools(agents: string, tools: string): string {
  const notes = notesOf(tools);
  if (notes === '') return agents;
  const lines = linesOf(agents);
  const at = lines.findIndex(({ text, level }) => level === 2 && TOOLS_HEADING.test(text.trimEnd()));
  if (at === -1) return `${joined(lines.map(({ text }) => text))}## Tools\n\n${notes}\n`;
  const length = lines.slice(at + 1).findIndex(({ level }) => level === 1 || level === 2);
  const end = length === -1 ? lines.length : at + 1 + length;
  const texts = lines.map(({ text }) => text);
  const rest = texts.slice(end).join('\n');
  return `${joined(texts.slice(0, end))}${notes}\n${rest === '' ? '' : `\n${rest}`}`;
}

/** What TOOLS.md says, without its title, its headings at the third level and below. */
function notesOf(tools: string): string {
  const lines = linesOf(tools.trim());
  if (TITLE.test(lines[0]?.text ?? '')) lines.shift();
  const levels = lines.map(({ level }) => level).filter((level) => level > 0);
  const deeper = Math.max(0, 3 - Math.min(...levels, 3));
  return lines
    .map(({ text, level }) => (level === 0 ? text : '#'.repeat(Math.min(6, level + deeper)) + text.slice(level)))
    .join('\n')
    .trim();
}

/** Joined, and ended so that what follows begins a paragraph. */
function joined(lines: string[]): string {
  const text = lines.join('\n').trimEnd();
  return text === '' ? '' : `${text}\n\n`;
}

function linesOf(text: string): Line[] {
  let fence = '';
  return text.split(/\r?\n/).map((line) => {
    const mark = FENCE.exec(line)?.[1];
    if (fence !== '') {
      if (mark?.startsWith(fence) && /^[ `~]*$/.test(line)) fence = '';
      return { text: line, level: 0 };
    }
    if (mark !== undefined) fence = mark;
    return { text: line, level: mark === undefined ? (HEADING.exec(line)?.[1]?.length ?? 0) : 0 };
  });
}

/**
 * What a HEARTBEAT.md asks for, without its comments; empty where nothing but headings and empty list items is left, which is how OpenClaw's
 * users keep it when the agent shall not be woken.
 */
export function tasksIn(heartbeat: string): string {
  const text = withoutComments(heartbeat).trim();
  const says = linesOf(text).some(({ text: line, level }) => level === 0 && !/^\s*(?:[-*+](?:\s+\[[ xX]?\])?)?\s*$/.test(line));
  return says ? text : '';
}

function withoutComments(text: string): string {
  let out = '';
  let at = 0;
  for (;;) {
    const begin = text.indexOf('<!--', at);
    if (begin === -1) return out + text.slice(at);
    out += text.slice(at, begin);
    const end = text.indexOf('-->', begin + 4);
    if (end === -1) return out;
    at = end + 3;
  }
}
