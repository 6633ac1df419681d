import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { getRequestListener } from '@hono/node-server';
import { type App, createApp } from './app.js';
import { type Config, ConfigError, readConfig, type Secrets } from './config.js';
import { migrate } from './db/migrate.js';
import { type Database, openDatabase } from './db/open.js';
import { loadOrCreateAdminKey } from './domains/api-keys/admin-key.js';
import { type Installation, openInstallation } from './domains/installation/installation.js';
import { refuseBadHttp, SERVER_OPTIONS } from './http/server.js';
import { serveSockets } from './http/sockets.js';
import { messageOf } from './lib/errors.js';
import { createLog, type Log } from './lib/log.js';
import { DockerRuntime } from './runtime/docker/docker.js';
import { ProcessRuntime } from './runtime/process/process.js';
import type { Runtime } from './runtime/runtime.js';
import { KeyFiles } from './vault/key-files.js';
import { loadOrCreateMasterKey } from './vault/master-key.js';
import { Vault, wipe } from './vault/vault.js';
import { VaultError } from './vault/vault-error.js';

/** How long requests in flight may go on once the process is asked to end. */
const STOP_GRACE_MS = 4_000;

/** What has to be closed at the end, last opened first. */
type Closer = () => Promise<void>;

async function run(): Promise<void> {
  const { config, secrets } = readConfig(process.env);
  const log = createLog(config.logLevel);
  const closers: Closer[] = [];
  const stop = stopOnce(closers, log);
  try {
    const database = await openDatabase({ databaseUrl: secrets.databaseUrl, dataDir: config.dataDir, log });
    closers.push(() => database.close());
    await migrate(database.db);
    const { vault, installation, keyFiles } = await unlock(database, config, secrets);
    const admin = await loadOrCreateAdminKey(config.dataDir, secrets.adminApiKey);
    const runtime = createRuntime(config, installation.id, log);
    const processId = `p${randomBytes(4).toString('hex')}`;
    const app = createApp({
      config,
      secrets,
      adminKey: admin.key,
      database,
      vault,
      keyFiles,
      installation,
      runtime,
      processId,
      version: version(),
      log,
    });
    closers.push(() => app.stop());
    await app.start();
    const { url, stopAccepting, end } = await listen(config, app);
    // Turns in flight have a moment to finish; what still runs then is ended by the app, so that its client reads an error and not a cut.
    closers.splice(-1, 1, async () => {
      await stopAccepting(STOP_GRACE_MS);
      await app.stop();
      // The errors that this made of them have to be written down and sent.
      await end(STOP_GRACE_MS);
    });
    log.info(
      { url, installation: installation.id, process: processId, database: database.kind, runtime: runtime.name },
      `Berth listens on ${url}`,
    );
    // Not through the logger, which keeps keys out: shown on the first start only, to whoever started it.
    if (admin.made) process.stdout.write(`Admin key (shown once; kept in ${admin.path}): ${admin.key}\n`);
  } catch (error) {
    await stop(1, error);
  }
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => void stop(0));
}

/** Opens the vault and proves by the installation's row that its master key is the right one. */
async function unlock(
  database: Database,
  config: Config,
  secrets: Secrets,
): Promise<{ vault: Vault; installation: Installation; keyFiles: KeyFiles | undefined }> {
  const { masterKey, previous, madeFile } = await loadOrCreateMasterKey(config.dataDir, secrets);
  const keyFiles = secrets.masterKey === undefined ? new KeyFiles(config.dataDir) : undefined;
  const vault = await Vault.open({ masterKey, previous, read: keyFiles && (() => keyFiles.readAll()) });
  wipe(masterKey);
  if (previous) wipe(previous);
  try {
    return { vault, keyFiles, installation: await openInstallation({ db: database.db, vault, dataDir: config.dataDir }) };
  } catch (error) {
    // The database was sealed under a key that is not here: the one just made opens nothing and must not be taken for it.
    if (madeFile !== undefined && error instanceof VaultError) await rm(madeFile, { force: true });
    throw error;
  }
}

/** Closes everything in reverse and ends the process; the second call does nothing. */
function stopOnce(closers: Closer[], log: Log): (exitCode: number, error?: unknown) => Promise<void> {
  let stopping = false;
  return async (exitCode, error) => {
    if (stopping) return;
    stopping = true;
    if (error !== undefined) log.fatal({ err: error }, messageOf(error));
    setTimeout(() => process.exit(exitCode || 1), 30_000).unref();
    for (const close of closers.reverse()) {
      await close().catch((closing: unknown) => log.error({ err: closing }, `stopping: ${messageOf(closing)}`));
    }
    process.exit(exitCode);
  };
}

function createRuntime(config: Config, installationId: string, log: Log): Runtime {
  if (config.runtime === 'docker')
    return new DockerRuntime({
      installationId,
      log,
      disks: { dir: config.diskDir, limits: config.diskLimits },
      ...(config.dockerHost ? { dockerHost: config.dockerHost } : {}),
    });
  log.warn(
    'RUNTIME=process: agents run as plain processes of this user, without any isolation. For trying Berth out, never for tenants.',
  );
  const gatewayPath = fileURLToPath(new URL('agent-image/dist/gateway.cjs', projectRoot()));
  return new ProcessRuntime({
    installationId,
    dataDir: `${config.dataDir}/process`,
    gatewayPath,
    log,
    allowTools: config.processTools,
  });
}

interface Listening {
  url: string;
  /** Takes no more connections; resolves once none is left, or after the grace. */
  stopAccepting(graceMs: number): Promise<void>;
  /** The same again, and then cuts what is left. */
  end(graceMs: number): Promise<void>;
}

async function listen(config: Config, app: App): Promise<Listening> {
  const server = createServer(SERVER_OPTIONS, getRequestListener(app.edge.fetch, { errorHandler: app.edge.refuse }));
  server.on('clientError', refuseBadHttp);
  const closeSockets = serveSockets(server, app.edge.fetch);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(config.port, config.host, resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : config.port;
  const closed = new Promise<void>((resolve) => server.once('close', resolve));
  // A connection whose answer is out stays open for the next request, so it is closed as it falls idle.
  const drained = async (graceMs: number): Promise<void> => {
    const sweep = setInterval(() => server.closeIdleConnections(), 20);
    await Promise.race([closed, sleep(graceMs, undefined, { ref: false })]);
    clearInterval(sweep);
  };
  const host = config.host.includes(':') ? `[${config.host}]` : config.host;
  return {
    url: `http://${host}:${port}`,
    async stopAccepting(graceMs) {
      server.close();
      app.endStreams();
      closeSockets();
      await drained(graceMs);
    },
    async end(graceMs) {
      await drained(graceMs);
      server.closeAllConnections();
    },
  };
}

/** The folder of package.json: one above src/, two above dist/src/. */
function projectRoot(): URL {
  const above = new URL('../', import.meta.url);
  return existsSync(new URL('package.json', above)) ? above : new URL('../', above);
}

function version(): string {
  const text = readFileSync(new URL('package.json', projectRoot()), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

try {
  await run();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(2);
}
