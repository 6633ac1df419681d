import { readFileSync, readdirSync } from 'node:fs';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** One import or re-export statement. */
export interface Import {
  /** A file from the repository's root, or a package. */
  target: string;
  /** Whether only types come over, so that nothing is left of it at run time. */
  typeOnly: boolean;
}

/** A named piece of code and its size. */
export interface Piece {
  name: string;
  lines: number;
}

/** A source file as the architecture test sees it: text, read without a parser, which the formatter makes possible. */
export class Source {
  /** From the repository's root: `src/domains/agents/agents.ts`. */
  readonly path: string;
  readonly text: string;

  constructor(path: string) {
    this.path = path;
    this.text = readFileSync(`${REPOSITORY}/${path}`, 'utf8');
  }

  get name(): string {
    return posix.basename(this.path);
  }

  /** `agents` of `src/domains/agents/agents.ts`. */
  get domain(): string | undefined {
    return /^src\/domains\/([^/]+)\//.exec(this.path)?.[1];
  }

  get lines(): string[] {
    return this.text.replace(/\n$/, '').split('\n');
  }

  get imports(): Import[] {
    const statements = [...this.text.matchAll(/^(?:import|export)\s+(type\s+)?([^;'"]*?)\s+from\s+'([^']+)';/gms)];
    const bare = [...this.text.matchAll(/\bimport\s*\(?\s*'([^']+)'/g)];
    return [
      ...statements.map(([, type, names = '', from = '']) => ({
        target: this.#resolve(from),
        typeOnly: type !== undefined || isAllTypes(names),
      })),
      ...bare.map(([, from = '']) => ({ target: this.#resolve(from), typeOnly: false })),
    ];
  }

  /** Functions and methods of the file's top two levels, by the indentation of their first and last lines. */
  get functions(): Piece[] {
    const { lines } = this;
    return lines.flatMap((line, start) => {
      const [, indent] = /^( {0,2})(?!\s|\})\S.*\{$/.exec(line) ?? [];
      if (
        indent === undefined ||
        /^\s*(export )?(default )?(abstract )?(class|interface|type|enum|declare|namespace|const \w+(: [^=]*)? = \{)\b/.test(line)
      )
        return [];
      const end = lines.findIndex((other, at) => at > start && other.startsWith(`${indent}}`));
      return [{ name: line.trim(), lines: end - start + 1 }];
    });
  }

  #resolve(from: string): string {
    return from.startsWith('.') ? posix.join(posix.dirname(this.path), from).replace(/\.js$/, '.ts') : from;
  }
}

/** The sources below some folders. */
export function sourcesIn(...folders: string[]): Source[] {
  return folders.flatMap((folder) =>
    readdirSync(`${REPOSITORY}/${folder}`, { recursive: true, encoding: 'utf8' })
      .filter((path) => /\.(ts|mjs)$/.test(path) && !path.includes('node_modules'))
      .map((path) => new Source(posix.join(folder, path))),
  );
}

/** The name of a package, without what lies inside it. */
export function packageOf(target: string): string {
  return target
    .split('/')
    .slice(0, target.startsWith('@') ? 2 : 1)
    .join('/');
}

function isAllTypes(names: string): boolean {
  const inner = /^\{([^}]*)\}$/.exec(names.trim())?.[1];
  return inner !== undefined && inner.split(',').every((name) => name.trim() === '' || name.trim().startsWith('type '));
}
