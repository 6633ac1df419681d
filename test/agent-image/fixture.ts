import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { BerthStandIn, LinkFolder } from './berth.js';
import { GatewayProcess, bundledGateway } from './gateway.js';

/** A gateway process and the Berth stand-in it is linked to. */
export interface Fixture {
  bundle: string;
  folder: LinkFolder;
  berth: BerthStandIn;
  gateway: GatewayProcess;
  close(): Promise<void>;
}

export async function startFixture(env: Record<string, string> = {}): Promise<Fixture> {
  const bundle = await bundledGateway();
  const folder = new LinkFolder();
  const berth = await new BerthStandIn(folder).listen();
  const gateway = new GatewayProcess(bundle, folder.dir, env).start();
  return {
    bundle,
    folder,
    berth,
    gateway,
    async close() {
      await gateway.remove();
      await berth.close();
      folder.remove();
      rmSync(dirname(bundle), { recursive: true, force: true });
    },
  };
}

export function agent(id: string, more: object = {}): object {
  return { id, incarnation: 'i1', model: 'demo/echo', ...more };
}

/** A chat body with one user message. */
export function say(agentId: string, content: unknown, more: object = {}): object {
  return { model: `openclaw/${agentId}`, messages: [{ role: 'user', content }], ...more };
}

/** Resolves once `check` holds; rejects with `what` when it does not within `withinMs`. */
export async function until(what: string, check: () => boolean | Promise<boolean>, withinMs = 8000): Promise<void> {
  const giveUpAt = Date.now() + withinMs;
  while (!(await check())) {
    if (Date.now() > giveUpAt) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
