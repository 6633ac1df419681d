import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Plain JavaScript that is run as a file of its own, so that it cannot be part of another one. */
const PROGRAMS = ['src/runtime/process/shim.mjs', 'src/domains/context/count-worker.mjs'];

/** Not taken in: PGlite brings files of its own, and the rest are optional parts of packages that do without them. */
const EXTERNAL = ['@electric-sql/pglite', '@electric-sql/pglite/*', 'pg-native', 'cpu-features', '*.node'];

/** What packages that are no ES modules find around them. */
const BANNER = `
import { createRequire as requireFrom } from 'node:module';
const require = requireFrom(import.meta.url), __filename = import.meta.filename, __dirname = import.meta.dirname;`;

/**
 * Writes Berth, with the packages it needs, to `folder` as one file, and answers its name: loading some nine hundred files took longer than all else
 * that a start does. It is written beside and then renamed, so that two may build into one folder at once, and a Berth that starts meanwhile
 * reads one or the other. Types are not looked at: `npm run check` does that.
 */
export async function bundleBerth(folder: string): Promise<string> {
  const beside = `.${randomBytes(4).toString('hex')}`;
  await build({
    entryPoints: [join(ROOT, 'src/main.ts')],
    outfile: join(folder, `berth.mjs${beside}`),
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    keepNames: true,
    external: EXTERNAL,
    banner: { js: BANNER },
    plugins: [whereItWas()],
    logLevel: 'warning',
  });
  for (const program of PROGRAMS) {
    await mkdir(dirname(join(folder, program)), { recursive: true });
    await copyFile(join(ROOT, program), join(folder, `${program}${beside}`));
  }
  for (const file of [...PROGRAMS, 'berth.mjs']) await rename(join(folder, `${file}${beside}`), join(folder, file));
  return join(folder, 'berth.mjs');
}

/**
 * Writes the gateway that runs inside instances to `outfile`, a file that needs nothing but Node. Not as an ES module: Node takes 20 ms longer to start
 * one, and each wake of an instance that was stopped is a start.
 */
export async function bundleGateway(outfile: string, entry = join(ROOT, 'agent-image/src/main.ts')): Promise<void> {
  await build({
    entryPoints: [entry],
    // The file names the modules from here, so that it is the same wherever it is made.
    absWorkingDir: ROOT,
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    logLevel: 'warning',
  });
}

/** A module that looks for a file beside itself finds it at the same place below the folder of the bundle. */
function whereItWas(): Plugin {
  return {
    name: 'where-it-was',
    setup({ onLoad }) {
      onLoad({ filter: /\/src\/.*\.ts$/ }, async ({ path }) => {
        const source = await readFile(path, 'utf8');
        if (!source.includes('import.meta.url')) return undefined;
        const place = JSON.stringify(`./${relative(ROOT, path)}`);
        return { contents: source.replaceAll('import.meta.url', `new URL(${place}, import.meta.url).href`), loader: 'ts' };
      });
    },
  };
}
