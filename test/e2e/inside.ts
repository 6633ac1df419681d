import { expect } from 'vitest';
import type { TestApp } from '../support/app.js';

export interface Tenant {
  id: string;
  name: string;
  key: string;
  agent: { id: string; name: string; key: string; deploymentId: string };
}

/** A user with one agent that is ready. */
export async function tenant(
  app: TestApp,
  { tier = 'pro', ...wish }: { tier?: string; network?: object; isolation?: string } = {},
): Promise<Tenant> {
  const user = await app.user(undefined, tier);
  const agent = await app.agent(user, 'a', wish);
  await app.ready(user);
  return { ...user, agent };
}

/** What the agent answers. */
export async function say(app: TestApp, who: Tenant, content: string): Promise<string> {
  const answer = await app.post(`/api/v1/users/me/agents/${who.agent.name}/chat`, who.key, {
    messages: [{ role: 'user', content }],
  });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.message;
}

/** Has the agent run a command with its shell tool; answers all that it printed. */
export async function shell(app: TestApp, who: Tenant, command: string, timeoutS = 60): Promise<string> {
  const said = await say(app, who, `/tool shell ${JSON.stringify({ command, timeout_s: timeoutS })}`);
  return said.replace(/^Tool shell said: /, '');
}

/** Has the agent run a Python program, which prints one JSON value. `given` is there as GIVEN. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export async function python(app: TestApp, who: Tenant, program: string, given: unknown = null): Promise<any> {
  const text = `import json\nGIVEN = json.loads(${JSON.stringify(JSON.stringify(given))})\n${program}`;
  const printed = await shell(app, who, `python3 - <<'PYTHON'\n${text}\nPYTHON`);
  try {
    return JSON.parse(printed);
  } catch {
    throw new Error(`the program printed: ${printed}`);
  }
}

/** The live instance of a tenant: its id and the container's name. */
export async function instanceOf(app: TestApp, who: Tenant): Promise<{ id: string; container: string }> {
  const { json } = await app.get('/api/v1/deploy/status', who.key);
  const id: string = json.deployments[0].instance.id;
  const { instances } = await app.runtime.list();
  const container = instances.find((one) => one.instanceId === id)?.name;
  if (container === undefined) throw new Error(`no container of ${id}`);
  return { id, container };
}
