// The proxy of the egress tests, in a network namespace of its own; the unix sockets reach out of it. argv: link folder, options.
import { createServer } from 'node:net';
import { pino } from 'pino';
import { LinkHost } from '../../src/link/host.js';
import { type EgressAmounts, EgressProxy } from '../../src/link/egress.js';
import type { EgressPolicy } from '../../src/link/policy.js';
import { sha256, silentLog } from './gateway.js';

const [dir = '', optionsText = '{}'] = process.argv.slice(2);
const options = JSON.parse(optionsText) as {
  policies: Record<string, EgressPolicy>;
  limits: object;
  servers: string[];
  deny: string[];
};
const tallies: Record<string, EgressAmounts> = {};
const egress = new EgressProxy({
  policyOf: (identity) => options.policies[identity.instanceId.slice(4)] ?? { mode: 'none' },
  log: process.env['LINK_SHOW'] ? pino({ level: 'info' }, pino.destination(2)) : silentLog,
  ledger: {
    note({ instanceId }, { host, port }, amounts) {
      const tally = (tallies[`${instanceId} ${host}:${port}`] ??= {});
      for (const [name, amount] of Object.entries(amounts) as [keyof EgressAmounts, number][]) {
        tally[name] = (tally[name] ?? 0) + amount;
      }
    },
  },
  servers: options.servers,
  deny: options.deny,
  limits: options.limits,
});
const host = new LinkHost({
  dir,
  processId: 'p',
  log: silentLog,
  egress,
  handler: (identity, request, response) => {
    request.resume();
    const own = Object.entries(tallies).filter(([key]) => key.startsWith(`${identity.instanceId} `));
    const hosts = Object.fromEntries(own.map(([key, amounts]) => [key.split(' ')[1], amounts]));
    response.end(JSON.stringify({ ...egress.traffic(identity.instanceId), hosts, rss: process.memoryUsage().rss }));
  },
});
for (const name of Object.keys(options.policies)) {
  // `greedy` and `greedy2` are two instances of one user.
  const userId = `usr_${name.replace(/\d$/, '')}`;
  await host.open({ instanceId: `ins_${name}`, deploymentId: `dep_${name}`, userId }, sha256(`token-${name}`));
}
process.on('message', async (message: { policies?: Record<string, EgressPolicy>; cut?: string; recheck?: string }) => {
  Object.assign(options.policies, message.policies);
  if (message.cut) host.cutTunnels(message.cut);
  if (message.recheck) await egress.recheck(message.recheck);
  process.send?.('done');
});
// A service of the host itself, on every address that the host answers for.
for (const port of [80, 443])
  await new Promise<void>((resolve) =>
    createServer((socket) => socket.on('error', () => {}).end('inside')).listen(port, '::', resolve),
  );
process.send?.('ready');
