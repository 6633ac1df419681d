import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { admission } from './admission.js';
import { audit } from './audit.js';
import { chat } from './chat.js';
import { claim } from './claim.js';
import { context } from './context.js';
import { events } from './events.js';
import { files } from './files.js';
import { get } from './get.js';
import { journal } from './journal.js';
import { llm } from './llm.js';
import { logs } from './logs.js';
import { memory } from './memory.js';
import { provision } from './provision.js';
import { secrets } from './secrets.js';
import { replace } from './replace.js';
import { restart } from './restart.js';
import { snapshots } from './snapshots.js';
import { scale } from './scale.js';
import type { Bench, BenchContext } from './support/bench.js';
import type { DatabaseKind } from './support/berth.js';
import { isMet, printed, type Report } from './support/measure.js';
import { Scope } from './support/scope.js';
import { startPostgres } from './support/world.js';
import { templates } from './templates.js';
import { wake } from './wake.js';

const BENCHES: Record<string, Bench> = {
  audit,
  provision,
  claim,
  wake,
  chat,
  journal,
  llm,
  get,
  events,
  files,
  logs,
  memory,
  secrets,
  templates,
  context,
  replace,
  admission,
  snapshots,
  scale,
  restart,
};
const RESULTS = fileURLToPath(new URL('results/', import.meta.url));

/** `npm run bench [-- NAME…]`: runs those benchmarks, or all, prints a table of each, and writes results/NAME.json. */
async function main(names: string[]): Promise<void> {
  const unknown = names.filter((name) => !BENCHES[name]);
  if (unknown.length > 0) throw new Error(`no benchmark ${unknown.join(', ')}; there are ${Object.keys(BENCHES).join(', ')}`);
  const [outer, scope] = [new Scope(), new Scope()];
  const end = async () => {
    await scope.close();
    await outer.close();
  };
  process.once('SIGINT', () => void end().then(() => process.exit(130)));
  const given = contextOf(outer, scope);
  let missed = 0;
  try {
    for (const name of names.length > 0 ? names : Object.keys(BENCHES)) {
      const reports = await BENCHES[name]!(given);
      await scope.close();
      for (const report of reports) process.stdout.write(`${printed(report)}\n`);
      await save(name, reports);
      missed += reports.flatMap((report) => report.verdicts).filter((verdict) => !isMet(verdict)).length;
    }
  } finally {
    await end();
  }
  process.stdout.write(
    `\n${missed === 0 ? 'every target is met' : `${missed} targets are missed`}; results are in bench/results/\n`,
  );
}

function contextOf(outer: Scope, scope: Scope): BenchContext {
  const share = Number(process.env['BENCH_SCALE'] ?? 1);
  const wanted = process.env['BENCH_DATABASE'];
  const kinds = (['postgres', 'pglite'] as const).filter((kind) => wanted === undefined || wanted === kind);
  let server: Promise<string> | undefined;
  const urlOf = async (kind: DatabaseKind) => (kind === 'postgres' ? (server ??= startPostgres(outer)) : undefined);
  return {
    scope,
    scaled: (count) => Math.max(1, Math.round(count * share)),
    databases: () => Promise.all(kinds.map(async (kind) => ({ kind, url: await urlOf(kind) }))),
  };
}

async function save(name: string, reports: Report[]): Promise<void> {
  await mkdir(RESULTS, { recursive: true });
  const judged = reports.map((report) => ({
    ...report,
    verdicts: report.verdicts.map((verdict) => ({ ...verdict, met: isMet(verdict) })),
  }));
  const about = {
    name,
    at: new Date().toISOString(),
    node: process.version,
    cpus: cpus().length,
    load: loadavg()[0],
    scale: process.env['BENCH_SCALE'] ?? '1',
  };
  await writeFile(`${RESULTS}${name}.json`, `${JSON.stringify({ ...about, reports: judged }, undefined, 2)}\n`);
}

await main(process.argv.slice(2));
