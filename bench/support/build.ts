import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build as bundle } from 'esbuild';
import { bundleBerth, bundleGateway } from '../../scripts/build/bundle.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const BUILD = join(ROOT, 'bench/results/build');
let built: Promise<void> | undefined;

/** What operators run, built as `npm run build` does but into a folder of its own: dist/ is left alone, and leaves this alone. */
export interface Build {
  main: string;
  gateway: string;
}

export async function buildBerth(): Promise<Build> {
  await (built ??= makeBuild());
  return { main: join(BUILD, 'dist/berth.mjs'), gateway: join(BUILD, 'agent-image/dist/gateway.cjs') };
}

/** A program of `bench/programs` as one file for plain Node: a loader would cost time where it is measured. */
export async function buildProgram(name: string): Promise<string> {
  const outfile = join(BUILD, 'programs', `${name}.mjs`);
  await bundle({
    entryPoints: [join(ROOT, `bench/programs/${name}.ts`)],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    packages: 'external',
    logLevel: 'warning',
  });
  return outfile;
}

async function makeBuild(): Promise<void> {
  await mkdir(join(BUILD, 'dist'), { recursive: true });
  // Berth finds its version, and the gateway, by the package.json above it.
  await copyFile(join(ROOT, 'package.json'), join(BUILD, 'package.json'));
  await writeFile(join(ROOT, 'bench/results/.gitignore'), '*\n');
  await bundleGateway(join(BUILD, 'agent-image/dist/gateway.cjs'));
  await bundleBerth(join(BUILD, 'dist'));
}
