/** Waits for a condition; says what it waited for when that does not come. */
export async function until(
  check: () => boolean | undefined | Promise<boolean | undefined>,
  what: string | (() => string),
  withinMs = 20_000,
): Promise<void> {
  const end = performance.now() + withinMs;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`waited ${withinMs} ms for ${typeof what === 'string' ? what : what()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
