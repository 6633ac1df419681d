import { describe, expect, test } from 'vitest';
import { Refusals } from '../../src/domains/audit/refusals.js';
import type { Asked, Became } from '../../src/http/audit.js';
import type { Caller } from '../../src/lib/caller.js';

const REFUSED: Became = { status: 401, code: 'unauthorized' };
const user = (n: number): Caller => ({ kind: 'user', keyId: `key_${n}`, userId: `usr_${n}`, userName: 'u', tier: 'free' });

function asked(operation: string, caller?: Caller): Asked {
  const userId = caller && 'userId' in caller ? caller.userId : undefined;
  return { requestId: 'r', operation, caller, userId, address: '10.0.0.1', path: `/${operation}`, resource: undefined };
}

describe('refusals', () => {
  test('the first of a kind is said at once, the others together a minute later', () => {
    const refusals = new Refusals();
    const said = Array.from({ length: 50 }, () => refusals.note(asked('get'), REFUSED, 'net'));
    expect(said.filter(Boolean)).toEqual([asked('get')]);
    expect(refusals.take()).toMatchObject([{ asked: { operation: 'get' }, more: 49 }]);
    expect(refusals.take()).toEqual([]);
    expect(refusals.note(asked('get'), REFUSED, 'net')).toBeDefined();
  });

  test('strangers of many networks make no more entries than strangers of one, and none is uncounted', () => {
    const refusals = new Refusals({ ofStrangers: 30 });
    let said = 0;
    for (let n = 0; n < 5_000; n++) said += refusals.note(asked(`op${n % 7}`), REFUSED, `2001:db8:${n}`) ? 1 : 0;
    expect(said).toBe(31);
    const rest = refusals.take();
    expect(rest.length).toBeLessThanOrEqual(31);
    expect(rest.reduce((sum, { more }) => sum + more, said)).toBe(5_000);
    expect(rest.find(({ asked: { operation } }) => operation === '*')?.asked).toMatchObject({
      path: '',
      address: '',
      userId: undefined,
    });
  });

  test('a key that is refused everywhere stays its own, and takes nothing from another', () => {
    const refusals = new Refusals({ ofKey: 3 });
    for (let n = 0; n < 100; n++) refusals.note(asked(`op${n}`, user(1)), REFUSED, 'net');
    expect(refusals.note(asked('get', user(2)), REFUSED, 'net')).toMatchObject({ operation: 'get', userId: 'usr_2' });
    expect(refusals.take()).toMatchObject([{ asked: { operation: '*', userId: 'usr_1', caller: { keyId: 'key_1' } }, more: 96 }]);
  });

  test('more keys than are told apart are nobody in particular', () => {
    const refusals = new Refusals({ keys: 2, ofKey: 2 });
    const said = Array.from({ length: 9 }, (_, n) => refusals.note(asked('get', user(n)), REFUSED, 'net')).filter(Boolean);
    expect(said.map((one) => one?.userId)).toEqual(['usr_0', 'usr_1', undefined, undefined, undefined]);
    expect(refusals.take()).toMatchObject([{ more: 4, asked: { caller: undefined, userId: undefined } }]);
  });
});
