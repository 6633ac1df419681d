import type { Config } from './config.js';
import type { Database } from './db/open.js';
import type { Audit } from './domains/audit/audit.js';
import { Figures } from './domains/health/figures.js';
import { Health } from './domains/health/health.js';
import { readKeyCheck } from './domains/installation/installation.js';
import type { HttpMetrics } from './http/metrics.js';
import type { LinkHost } from './link/host.js';
import type { Runtime } from './runtime/runtime.js';
import type { Vault } from './vault/vault.js';

export interface HealthParts {
  db: Database['db'];
  runtime: Runtime;
  config: Pick<Config, 'dataDir' | 'linkDir'>;
  vault: Vault;
  links: LinkHost;
  audit: Audit;
  metrics: HttpMetrics;
}

/** What says how the system is: whether it can work, and how much there is of everything. */
export function createHealth({ db, runtime, config, vault, links, audit, metrics }: HealthParts): {
  health: Health;
  figures: Figures;
} {
  const health = new Health({
    db,
    runtime,
    dataDir: config.dataDir,
    linkDir: config.linkDir,
    checkVault: async () => void vault.verifyKeyCheck(await readKeyCheck(db)),
  });
  const figures = new Figures({ db, links: () => links.links().length, auditLag: () => audit.lag() });
  figures.show(metrics);
  return { health, figures };
}
