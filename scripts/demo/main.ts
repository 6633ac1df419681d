// The demonstration of `npm run quickstart`, once everything is installed and built.
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Config, ConfigError, readConfig } from '../../src/config.js';
import { messageOf } from '../../src/lib/errors.js';
import { Berth, chooseLinkDir, choosePort } from './berth.js';
import { Client } from './client.js';
import { findUser, makeAgents, makeUser, removeUser, streamAnswer, watchDeploy } from './steps.js';

const once = process.argv.includes('--once');
const clean = process.argv.includes('--clean');

const say = (line = ''): void => void process.stdout.write(`${line}\n`);

async function start(config: Config): Promise<Berth> {
  const asked = Boolean(process.env['PORT']);
  const port = await choosePort(config, asked);
  if (!asked && port !== config.port) say(`Port ${config.port} is taken, so Berth takes ${port} (PORT chooses another).`);
  const linkDir = chooseLinkDir(config);
  if (linkDir !== config.linkDir)
    say(`${config.linkDir} is too deep for a socket's path, so the link folder is ${linkDir} (LINK_DIR chooses another).`);
  return new Berth(config, port, linkDir);
}

async function adminClient(berth: Berth, config: Config): Promise<Client> {
  const file = join(config.dataDir, 'admin.key');
  const key = process.env['ADMIN_API_KEY'] || (await readFile(file, 'utf8').catch(() => undefined)); // said below
  if (key === undefined) throw new Error(`there is no admin key in ${file}: set ADMIN_API_KEY to the one of this database`);
  return new Client(berth.origin, key.trim());
}

async function demonstrate(berth: Berth, config: Config): Promise<void> {
  const keyFile = join(config.dataDir, 'demo.key');
  await berth.waitUntilHealthy();
  say(`Berth listens on ${berth.origin} (${await describe(berth, config)})`);

  const found = await findUser(berth.origin, keyFile);
  const { client, user } = found ?? (await makeUser(berth.origin, await adminClient(berth, config), keyFile));
  say(`\n1. A user: ${user.name} (${found ? 'of the last time' : 'made now'}; its key is in ${keyFile})`);

  const [manager = '', coder = ''] = await makeAgents(client, config.defaultModel);
  say(`2. Two agents: ${manager} and ${coder}, on the model ${config.defaultModel}`);

  say('3. Their deploy:');
  const instance = await watchDeploy(client);
  if (config.runtime === 'docker') say(`   They share a container: docker ps --filter label=berth.instance=${instance}`);

  say(`4. ${manager} answers:`);
  await streamAnswer(client, manager, 'Hello from the quickstart! Who are you?');
  if (config.runtime === 'docker') {
    say(`5. ${coder} uses the shell of its container:`);
    await streamAnswer(client, coder, shellQuestion(config.defaultModel));
  }
  if (!once) explain(berth, config, keyFile);
}

async function describe(berth: Berth, config: Config): Promise<string> {
  const { parts } = (await (await fetch(`${berth.origin}/ready`)).json()) as { parts: { engine: { detail: string } } };
  const database = process.env['DATABASE_URL'] ? 'Postgres' : `the embedded database in ${config.dataDir}`;
  return `${parts.engine.detail}; ${database}`;
}

/** The demo model calls a tool when it is told to in its own words. */
function shellQuestion(model: string): string {
  const command = 'id -u; uname -sr; ls -A /data';
  return model.startsWith('demo/')
    ? `/tool shell ${JSON.stringify({ command })}`
    : `Run this in your shell and show me what it prints: ${command}`;
}

function explain(berth: Berth, config: Config, keyFile: string): void {
  const { origin } = berth;
  const adminFile = join(config.dataDir, 'admin.key');
  const adminKey = process.env['ADMIN_API_KEY'] ? 'as set in ADMIN_API_KEY' : `in ${adminFile}`;
  const key = `$(cat '${keyFile.replaceAll("'", `'\\''`)}')`;
  const json = "-H 'Content-Type: application/json'";
  const hello = '[{"role":"user","content":"Hello"}]';
  say(`
API        ${origin}/api/v1
Docs       ${origin}/docs
OpenAI     base URL ${origin}/v1, model berth/manager, the user's key
Admin key  ${adminKey}
Berth log  ${berth.logFile}

Three lines to try:

curl -N ${origin}/api/agents/manager/chat/stream -H "X-API-Key: ${key}" ${json} -d '{"messages":${hello}}'

curl ${origin}/v1/chat/completions -H "Authorization: Bearer ${key}" ${json} -d '{"model":"berth/coder","messages":${hello}}'

curl ${origin}/api/usage -H "X-API-Key: ${key}"
`);
}

async function removeDemo(berth: Berth, config: Config): Promise<void> {
  const keyFile = join(config.dataDir, 'demo.key');
  await berth.waitUntilHealthy();
  const found = await findUser(berth.origin, keyFile);
  if (found) await removeUser(await adminClient(berth, config), found.user);
  await rm(keyFile, { force: true });
  say(
    found
      ? `User ${found.user.name} is deleted, with its agents, containers, volumes and rows.`
      : `The key in ${keyFile} opens nothing any more, so no user was deleted; the file is removed.`,
  );
}

/** One sentence, and what Berth warned of besides, if it did. */
function failure(berth: Berth, message: string): string {
  const besides = berth.lastWords === '' || message.endsWith(berth.lastWords.trim()) ? '' : `\nBerth said:\n${berth.lastWords}`;
  return `quickstart: ${message}${besides}\nBerth's log is ${berth.logFile}`;
}

function afterOnce(config: Config): string {
  const left = config.runtime === 'docker' ? "The agents' container goes on and is taken up again then; " : '';
  return `
Berth ends now, as --once asks. To keep it serving, and to get three lines to try: npm run quickstart
${left}npm run quickstart -- --clean deletes the demo user with all that belongs to it.`;
}

async function run(): Promise<number> {
  const { config } = readConfig(process.env);
  const berth = await start(config);
  let stopping = false;
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      stopping = true;
      void berth.stop();
    });
  }
  try {
    await (clean ? removeDemo(berth, config) : demonstrate(berth, config));
    if (!once && !clean) {
      say(
        'Berth goes on serving; Ctrl-C stops it. Agents in their containers outlive it and are taken up again at the next start;',
      );
      say('`npm run quickstart -- --clean` deletes the demo user with all that belongs to it.');
      await berth.waitForEnd();
      if (!stopping) throw new Error(berth.ended);
    }
    if (once && !clean) say(afterOnce(config));
  } catch (error) {
    await berth.stop();
    if (stopping) return 130;
    process.stderr.write(`\n${failure(berth, messageOf(error))}\n`);
    return 1;
  }
  await berth.stop();
  if (stopping) say('\nBerth has stopped.');
  return 0;
}

try {
  process.exitCode = await run();
} catch (error) {
  process.stderr.write(`${error instanceof ConfigError ? '' : 'quickstart: '}${messageOf(error)}\n`);
  process.exitCode = error instanceof ConfigError ? 2 : 1;
}
