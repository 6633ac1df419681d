import { expect, test, vi } from 'vitest';
import { Gathering } from '../../src/lib/gathering.js';

test('what comes while others are under way is done together after them; a failure is that of those alone that it was done with', async () => {
  const rounds: { all: string[]; end(error?: Error): void }[] = [];
  const gathering = new Gathering(
    (all: string[]) =>
      new Promise<string>((resolve, reject) => {
        rounds.push({ all, end: (error) => (error ? reject(error) : resolve(all.join())) });
      }),
  );
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const first = [gathering.add('a'), gathering.add('b')];
  await turn();
  const second = [gathering.add('c'), gathering.add('d')];
  await turn();
  expect(rounds.map(({ all }) => all.join())).toEqual(['a,b']);
  rounds[0]!.end(new Error('away'));
  await expect(Promise.allSettled(first)).resolves.toMatchObject([{ status: 'rejected' }, { status: 'rejected' }]);
  await turn();
  rounds[1]!.end();
  expect(await Promise.all(second)).toEqual(['c,d', 'c,d']);
  const third = gathering.add('e');
  await turn();
  rounds[2]!.end();
  expect(await third).toBe('e');
});

test('those before that have no answer hold up nobody for long', async () => {
  vi.useFakeTimers();
  const begun: string[][] = [];
  const gathering = new Gathering((all: string[]) => {
    begun.push(all);
    return all.includes('lost') ? new Promise<string>(() => {}) : Promise.resolve('done');
  });
  void gathering.add('lost');
  await vi.advanceTimersByTimeAsync(0);
  const next = gathering.add('next');
  await vi.advanceTimersByTimeAsync(1_000);
  expect(await next).toBe('done');
  expect(begun).toEqual([['lost'], ['next']]);
  vi.useRealTimers();
});
