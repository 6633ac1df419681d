import type { Dirent } from 'node:fs';
import { lstat, opendir, type FileHandle } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { openToRead, openToWrite, resolveFolder } from './confine.js';
import {
  MOST_RESULT_CHARS,
  ToolError,
  optionalBoolean,
  optionalInteger,
  optionalString,
  stringArgument,
  type Tool,
} from './tool.js';

const MOST_FILE_BYTES = 1024 * 1024;
const MOST_LINES = 2000;
const MOST_ENTRIES = 500;
/** Most entries of one folder that are looked at; a folder of a million must not fill the memory. */
const MOST_SCANNED = 5000;
const MOST_DEPTH = 8;
/** Not entered by a recursive listing: large, and hardly ever what is looked for. */
const PASSED_OVER = new Set(['.git', 'node_modules']);

const PATH = { type: 'string', description: 'Path relative to the workspace.' };

export const readFileTool: Tool = {
  name: 'read_file',
  description: `Read a text file of the workspace. At most ${MOST_LINES} lines at a time; use offset to go on.`,
  parameters: {
    type: 'object',
    properties: {
      path: PATH,
      offset: { type: 'integer', minimum: 1, description: 'First line to read, from 1.' },
      limit: { type: 'integer', minimum: 1, maximum: MOST_LINES, description: 'How many lines to read.' },
    },
    required: ['path'],
  },
  async run(args, { workspace }) {
    const path = stringArgument(args, 'path');
    const offset = optionalInteger(args, 'offset', 1, Number.MAX_SAFE_INTEGER, 1);
    const limit = optionalInteger(args, 'limit', 1, MOST_LINES, MOST_LINES);
    const file = await openToRead(workspace.dir, path);
    try {
      const { text, size } = await readStart(file);
      return { ok: true, text: selectLines(text, offset, limit, size > MOST_FILE_BYTES) };
    } finally {
      await file.close();
    }
  },
};

export const writeFileTool: Tool = {
  name: 'write_file',
  description: 'Write a text file of the workspace: made with its folders, or replaced. At most 1 MB.',
  parameters: {
    type: 'object',
    properties: { path: PATH, content: { type: 'string' } },
    required: ['path', 'content'],
  },
  async run(args, { workspace }) {
    const path = stringArgument(args, 'path');
    const bytes = await replaceContent(workspace.dir, path, stringArgument(args, 'content'));
    return { ok: true, text: `Wrote ${bytes} bytes to ${path}.` };
  },
};

export const editFileTool: Tool = {
  name: 'edit_file',
  description: 'Replace a piece of a text file. old_text must be there exactly once, unless replace_all is true.',
  parameters: {
    type: 'object',
    properties: {
      path: PATH,
      old_text: { type: 'string' },
      new_text: { type: 'string' },
      replace_all: { type: 'boolean' },
    },
    required: ['path', 'old_text', 'new_text'],
  },
  async run(args, { workspace }) {
    const path = stringArgument(args, 'path');
    const oldText = stringArgument(args, 'old_text');
    const newText = stringArgument(args, 'new_text');
    const all = optionalBoolean(args, 'replace_all');
    if (oldText === '') throw new ToolError('old_text: must not be empty');
    const before = await readWhole(workspace.dir, path);
    const pieces = before.split(oldText);
    const found = pieces.length - 1;
    if (found === 0) throw new ToolError('old_text: is not in the file');
    if (found > 1 && !all)
      throw new ToolError(`old_text: is in the file ${found} times; give more of its surroundings, or set replace_all`);
    await replaceContent(workspace.dir, path, pieces.join(newText));
    return { ok: true, text: `Replaced ${found === 1 ? 'one place' : `${found} places`} in ${path}.` };
  },
};

export const listFilesTool: Tool = {
  name: 'list_files',
  description: `List a folder of the workspace: folders end in /, files have their size in bytes. At most ${MOST_ENTRIES} entries.`,
  parameters: {
    type: 'object',
    properties: {
      path: { ...PATH, description: 'Folder, relative to the workspace; left out: the workspace itself.' },
      recursive: { type: 'boolean' },
    },
  },
  async run(args, { workspace }) {
    const root = await resolveFolder(workspace.dir, optionalString(args, 'path', '.') || '.');
    const lines: string[] = [];
    await list(root, root, optionalBoolean(args, 'recursive') ? MOST_DEPTH : 1, lines);
    if (lines.length === 0) return { ok: true, text: '(empty)' };
    const cut = lines.length > MOST_ENTRIES ? `\n[… more than ${MOST_ENTRIES} entries: list a folder of it]` : '';
    return { ok: true, text: lines.slice(0, MOST_ENTRIES).join('\n') + cut };
  },
};

async function list(root: string, dir: string, depth: number, lines: string[]): Promise<void> {
  for (const entry of await entriesOf(dir)) {
    if (lines.length > MOST_ENTRIES) return;
    const path = join(dir, entry.name);
    lines.push(await describe(root, path, entry));
    if (entry.isDirectory() && depth > 1 && !PASSED_OVER.has(entry.name)) await list(root, path, depth - 1, lines);
  }
}

async function entriesOf(dir: string): Promise<Dirent[]> {
  const entries: Dirent[] = [];
  const handle = await opendir(dir).catch((error: NodeJS.ErrnoException) => {
    throw new ToolError(error.code === 'ENOTDIR' ? 'path: is not a folder' : `path: cannot be listed (${error.code})`);
  });
  for await (const entry of handle) if (entries.push(entry) >= MOST_SCANNED) break;
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function describe(root: string, path: string, entry: Dirent): Promise<string> {
  const name = relative(root, path);
  if (entry.isDirectory()) return `${name}/`;
  if (entry.isSymbolicLink()) return `${name} (link)`;
  const stat = await lstat(path).catch(() => undefined);
  return entry.isFile() && stat ? `${name}\t${stat.size}` : `${name} (special)`;
}

async function readStart(file: FileHandle): Promise<{ text: string; size: number }> {
  const { size } = await file.stat();
  const buffer = Buffer.allocUnsafe(Math.min(size, MOST_FILE_BYTES));
  let filled = 0;
  while (filled < buffer.length) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  const read = buffer.subarray(0, filled);
  if (read.subarray(0, 8192).includes(0)) throw new ToolError(`path: is not a text file (${size} bytes)`);
  return { text: read.toString('utf8'), size };
}

async function readWhole(root: string, path: string): Promise<string> {
  const file = await openToRead(root, path);
  try {
    const { text, size } = await readStart(file);
    if (size > MOST_FILE_BYTES) throw new ToolError('path: is larger than 1 MB');
    return text;
  } finally {
    await file.close();
  }
}

async function replaceContent(root: string, path: string, content: string): Promise<number> {
  const bytes = Buffer.from(content, 'utf8');
  if (bytes.length > MOST_FILE_BYTES) throw new ToolError('content: at most 1 MB');
  const file = await openToWrite(root, path);
  try {
    await file.truncate(0);
    await file.writeFile(bytes);
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === 'ENOSPC' ? new ToolError('the disk is full') : error;
  } finally {
    await file.close();
  }
  return bytes.length;
}

function selectLines(text: string, offset: number, limit: number, isCut: boolean): string {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  if (lines.length === 0) return '(empty file)';
  if (offset > lines.length) throw new ToolError(`offset: the file has ${lines.length} lines`);
  let out = '';
  let next = offset - 1;
  while (next < lines.length && next < offset - 1 + limit) {
    const line = `${lines[next]}\n`;
    if (out !== '' && out.length + line.length > MOST_RESULT_CHARS - 200) break;
    out += line;
    next += 1;
  }
  const more = next < lines.length ? `[… lines ${next + 1} to ${lines.length} not shown: go on with offset ${next + 1}]` : '';
  const tail = isCut ? '[… only the first 1 MB of the file can be read so; use the shell for the rest]' : '';
  return [out.trimEnd(), more, tail].filter(Boolean).join('\n');
}
