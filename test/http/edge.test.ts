import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startToy, type Toy } from './toy.js';

describe('the edge', () => {
  let toy: Toy;
  beforeAll(async () => {
    toy = await startToy();
  });
  afterAll(() => toy.close());

  test.each([
    '/api/v1/users/ada/agents',
    '/api/v1/users/usr_ada/agents',
    '/api/v1/users/me/agents',
    '/api/users/me/agents',
    '/api/v1/agents',
    '/api/agents',
    '/api/agents/',
  ])('%s reaches the agents of the caller', async (path) => {
    const response = await toy.get(path, { key: 'ada-key' });
    expect([response.status, await response.json()]).toEqual([200, { data: [{ name: 'helper', user: 'usr_ada' }] }]);
  });
});
