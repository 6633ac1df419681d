import type { Hands } from './apply.js';

/** Ends a container and takes it away. What it printed last is read before: with the container, the engine's log goes. */
export async function takeAway(
  { runtime, lastWords }: Pick<Hands, 'runtime' | 'lastWords'>,
  { id, name }: { id: string; name: string },
  graceMs: number,
): Promise<void> {
  if (graceMs > 0) await runtime.stop(name, graceMs);
  if (graceMs > 0 || (await runtime.inspect(name))?.state === 'exited') await lastWords(id);
  await runtime.remove(name);
}
