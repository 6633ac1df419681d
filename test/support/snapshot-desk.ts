import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { TestApp } from './app.js';
import { until } from './until.js';

type User = Awaited<ReturnType<TestApp['user']>>;

/** Speaks of agents and their snapshots as a user does. */
export class Desk {
  constructor(
    readonly app: TestApp,
    readonly user: User,
  ) {}

  at(agent: string, rest: string): string {
    return `/api/v1/agents/${agent}/${rest}`;
  }

  async say(agent: string, content: string, conversation_id?: string) {
    const more = conversation_id === undefined ? {} : { conversation_id };
    const answer = await this.app.post(this.at(agent, 'chat'), this.user.key, { messages: [{ role: 'user', content }], ...more });
    return answer.json;
  }

  async write(agent: string, path: string, body: string) {
    const headers = { 'content-type': 'text/plain' };
    const answer = await this.app.call('PUT', this.at(agent, `files/${path}`), { key: this.user.key, body, headers });
    expect([200, 201]).toContain(answer.status);
  }

  read(agent: string, path: string) {
    return this.app.get(this.at(agent, `files/${path}`), this.user.key);
  }

  post(agent: string, rest: string, body: object = {}) {
    return this.app.post(this.at(agent, rest), this.user.key, body);
  }

  get(agent: string, rest: string) {
    return this.app.get(this.at(agent, rest), this.user.key);
  }

  /** A snapshot that is there. */
  async take(agent: string): Promise<string> {
    const { status, json } = await this.post(agent, 'snapshots');
    expect(status).toBe(202);
    return this.ended(agent, `snapshots/${json.id}`, 'ready');
  }

  /** Waits until it is no longer pending; answers its id. */
  async ended(agent: string, rest: string, state: string): Promise<string> {
    let last = '';
    await until(
      async () => {
        const answer = await this.get(agent, rest);
        last = answer.text;
        return answer.status === 200 && answer.json.state !== 'pending';
      },
      () => `${rest} to end: ${last}`,
      60_000,
    );
    expect(JSON.parse(last)).toMatchObject({ state });
    return JSON.parse(last).id;
  }

  restored(agent: string, restore: { id: string }): Promise<string> {
    return this.ended(agent, `restores/${restore.id}`, 'done');
  }

  async files(): Promise<string[]> {
    return readdir(join(this.app.dataDir, 'snapshots', this.user.id)).catch(() => []);
  }
}
