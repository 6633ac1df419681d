import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { Api } from './api.js';
import { Conversations } from './conversation.js';
import { Credentials } from './credentials.js';
import { Egress } from './egress.js';
import { TurnStopped } from './errors.js';
import { Departed } from './files/departed.js';
import { FileRoutes } from './files/routes.js';
import { Arrivals } from './files/state.js';
import { Volume } from './files/volume.js';
import { KeptTurns } from './kept-turns.js';
import { Leases } from './leases.js';
import { Links } from './link.js';
import { ModelClient } from './llm.js';
import { Log, errorCode } from './log.js';
import { Packages } from './packages/packages.js';
import { Preparation } from './preparation.js';
import { DataFolders, Roster } from './roster.js';
import { RunningTurns } from './running.js';
import { ForwardProxy } from './proxy.js';
import { LinkServer, listen } from './server.js';
import { readSettings, tokenPath, type Settings } from './settings.js';
import { fetchTool } from './tools/fetch.js';
import { editFileTool, listFilesTool, readFileTool, writeFileTool } from './tools/files.js';
import { keepAwakeTool } from './tools/keep-awake.js';
import { commandTool, shellTool } from './tools/shell.js';
import { Toolbox } from './tools/toolbox.js';
import { Trash } from './trash.js';
import { Turns } from './turn.js';

/** Turns in flight get this long to end after SIGTERM; the engine's own grace is 10 s. */
const FINISH_WITHIN_MS = 9000;
/** How long turns may go on before an agent's state is given away; Berth waits 90 s for its first byte. */
const SETTLE_WITHIN_MS = 60_000;
const HISTORY_BYTES = 128 * 1024;
const HISTORY_CACHE_BYTES = 4 * 1024 * 1024;

/** The middle compiler of newer Nodes took 20 MB, for good, once the gateway had run for a while; here it buys nothing. */
if (Number.parseInt(process.versions.node, 10) >= 22) setFlagsFromString('--no-maglev');

const log = new Log();

async function main(settings: Settings): Promise<void> {
  const credentials = new Credentials(tokenPath(settings));
  const folders = new DataFolders(settings.dataDir);
  const conversations = new Conversations({
    dirOf: (agentId) => folders.conversations(agentId),
    historyBytes: HISTORY_BYTES,
    cacheBytes: HISTORY_CACHE_BYTES,
    log,
  });
  const running = new RunningTurns();
  const trash = new Trash(folders.trash, log);
  const packages = new Packages(folders.packages, trash);
  const preparation = new Preparation({ packages, trash, log });
  const volume = new Volume(settings.dataDir, log);
  const arrivals = new Arrivals(volume);
  const departed = new Departed(volume);
  // Not while another instance may be at work on the same volume: it would lose what it has in the making.
  const alone = () => {
    volume.clean();
    void trash.empty();
    void arrivals.dropForgotten().catch((error: unknown) => log.warn('arrivals not looked through', { code: errorCode(error) }));
  };
  const roster = new Roster({ folders, trash, packages, preparation, arrivals, departed, conversations, running, log, alone });
  const model = new ModelClient((preferred) => links.sockets(preferred), credentials);
  const egress = new Egress(() => links.sockets(), credentials);
  const proxy = new ForwardProxy(egress, log);
  const leases = new Leases();
  const toolbox = toolboxOf(settings, egress, proxy, leases);
  const turns = new Turns({ model, conversations, toolbox });
  const files = new FileRoutes({
    volume,
    incarnationOf: (agentId) => roster.get(agentId)?.config.incarnation,
    departed,
    settled: (agentId) => running.agentSettled(agentId, SETTLE_WITHIN_MS),
  });
  const api = new Api({ roster, turns, running, kept: new KeptTurns(), packages, files, leases, log });
  const linkServer = new LinkServer(api, log);
  const links = new Links({ dir: settings.linkDir, credentials, accept: linkServer.accept, log });
  links.start();
  if (settings.proxyPort !== undefined) proxy.listen(settings.proxyPort);
  const port = settings.listen && (await listen(settings.listen, api, credentials));
  log.info('started', { instance: settings.instanceId, pid: process.pid, node: process.version });

  process.once('SIGTERM', () => {
    void (async () => {
      log.info('stopping', { turns: running.size });
      api.drain();
      links.stop();
      await running.settled(FINISH_WITHIN_MS);
      await running.stopAll(new TurnStopped('stopping'));
      linkServer.close();
      port?.close();
      model.close();
      // The last frames are written by then; what still hangs is not worth waiting for.
      await sleep(50);
      process.exit(0);
    })();
  });
}

function toolboxOf(settings: Settings, egress: Egress, proxy: ForwardProxy, leases: Leases): Toolbox {
  const shell = { proxyPort: () => proxy.port };
  const builtIn = [
    readFileTool,
    writeFileTool,
    editFileTool,
    listFilesTool,
    ...(settings.shell ? [shellTool(shell)] : []),
    ...(settings.fetch ? [fetchTool(egress)] : []),
    keepAwakeTool(leases),
  ];
  return new Toolbox({ builtIn, command: settings.shell ? (config) => commandTool(config, shell) : undefined });
}

main(readSettings(process.env)).catch((error: unknown) => {
  log.error('not started', { code: errorCode(error), why: error instanceof Error ? error.message : '' });
  process.exit(1);
});
