import { AppError } from './errors.js';

/**
 * The result of `work`, or an `AppError('timeout')` once `timeoutMs` have passed. The signal given to `work` is aborted at the
 * deadline and when `parent` aborts; the promise settles then even if `work` never does.
 */
export async function withDeadline<T>(
  what: string,
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<T>,
  parent?: AbortSignal,
): Promise<T> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let onParentAbort: (() => void) | undefined;
  const cut = new Promise<never>((_, reject) => {
    const fail = (error: unknown) => {
      controller.abort(error);
      reject(error);
    };
    timer = setTimeout(() => fail(new AppError('timeout', `${what} took longer than ${timeoutMs} ms`)), timeoutMs);
    onParentAbort = () => fail(parent?.reason);
    if (parent?.aborted) onParentAbort();
    else parent?.addEventListener('abort', onParentAbort, { once: true });
  });
  try {
    return await Promise.race([work(controller.signal), cut]);
  } finally {
    clearTimeout(timer);
    if (onParentAbort) parent?.removeEventListener('abort', onParentAbort);
  }
}
