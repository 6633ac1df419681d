import http from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { LlmGateway } from '../../src/llm/gateway.js';
import type { AgentDirectory, GatewayLimits, UsageEntry, UsageLedger, UsageOutcome } from '../../src/llm/ports.js';
import type { Provider } from '../../src/llm/provider.js';
import { createLog } from '../../src/lib/log.js';

/** A usage row as the ledger of the tests keeps it. */
export interface Row {
  entry: UsageEntry;
  outcomes: UsageOutcome[];
}

export class MemoryLedger implements UsageLedger {
  readonly rows: Row[] = [];
  failOpen: unknown;
  failSettles = 0;

  async open(entry: UsageEntry): Promise<string> {
    if (this.failOpen !== undefined) throw this.failOpen;
    this.rows.push({ entry, outcomes: [] });
    return String(this.rows.length - 1);
  }

  async settle(usageId: string, outcome: UsageOutcome): Promise<void> {
    if (this.failSettles-- > 0) throw new Error('the database is away');
    this.rows[Number(usageId)]?.outcomes.push(outcome);
  }

  /** The only outcome of the last row. */
  last(): UsageOutcome {
    const outcomes = this.rows.at(-1)?.outcomes ?? [];
    if (outcomes.length !== 1 || outcomes[0] === undefined) throw new Error(`the last row has ${outcomes.length} outcomes`);
    return outcomes[0];
  }
}

export const INSTANCE = { instanceId: 'ins_1', deploymentId: 'dep_1', userId: 'usr_1' };

export interface Harness {
  gateway: LlmGateway;
  ledger: MemoryLedger;
  url: string;
  server: http.Server;
  close(): Promise<void>;
}

/** The gateway on a plain HTTP server; the header `x-test-instance` says who calls. */
export async function startGateway(
  providers: Provider[],
  options: { limits?: Partial<GatewayLimits>; agents?: AgentDirectory } = {},
): Promise<Harness> {
  const ledger = new MemoryLedger();
  const agents = options.agents ?? { allowedModel: async (_, agentId) => ({ agentId, agentDbId: 'agt_1' }) };
  const gateway = new LlmGateway({ providers, ledger, agents, limits: options.limits, log: createLog('silent') });
  const server = http.createServer((request, response) => {
    const instanceId = String(request.headers['x-test-instance'] ?? INSTANCE.instanceId);
    gateway.handle({ ...INSTANCE, instanceId }, request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = async () => {
    await gateway.close();
    server.closeAllConnections();
    server.close();
  };
  return { gateway, ledger, url, server, close };
}

export interface Reply {
  status: number;
  headers: http.IncomingHttpHeaders;
  text: string;
  /** What came as `data:`, parsed; `[DONE]` as it is. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  data: any[];
}

export function chatBody(model: string, text: string, more: object = {}): object {
  return { model, messages: [{ role: 'user', content: text }], stream: true, ...more };
}

/** Makes a call and reads the answer to its end. */
export async function call(url: string, body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
  const response = await open(url, body, headers);
  let text = '';
  for await (const piece of response.setEncoding('utf8')) text += piece as string;
  const lines = text.split('\n').filter((line) => line.startsWith('data: '));
  const data = lines.map((line) => (line === 'data: [DONE]' ? '[DONE]' : JSON.parse(line.slice(6))));
  return { status: response.statusCode ?? 0, headers: response.headers, text, data };
}

/** Makes a call and hands back the response with its body unread. */
export function open(url: string, body: unknown, headers: Record<string, string> = {}): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = http.request(`${url}/v1/chat/completions`, { method: 'POST', agent: false, headers });
    request.on('response', resolve).on('error', reject);
    request.end(typeof body === 'string' ? body : JSON.stringify(body));
  });
}

/** The text of all chunks of a reply. */
export function textOf(reply: Reply): string {
  return reply.data.map((chunk) => chunk.choices?.[0]?.delta?.content ?? '').join('');
}
