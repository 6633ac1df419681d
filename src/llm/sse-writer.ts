import type { ServerResponse } from 'node:http';

/** As much text is put into one write; more would only fill the socket's buffer. */
const FLUSH_LENGTH = 16 * 1024;

export interface SseWriterLimits {
  keepAliveMs: number;
  drainTimeoutMs: number;
}

/** Thrown when the reader takes nothing for the stated time. */
export class SlowReaderError extends Error {}

/**
 * Writes server-sent events to a response. Events that come in one go are put into one write. `push` returns a promise exactly
 * when the reader is behind, to be awaited before more is fetched. After `keepAliveMs` without an event a comment goes out, which
 * is also what first sends the headers where the upstream is slow to begin.
 */
export class SseWriter {
  readonly #response: ServerResponse;
  readonly #limits: SseWriterLimits;
  readonly #keepAlive: NodeJS.Timeout;
  #pending = '';
  #scheduled = false;

  constructor(response: ServerResponse, limits: SseWriterLimits) {
    this.#response = response;
    this.#limits = limits;
    this.#keepAlive = setInterval(() => this.#comment(), limits.keepAliveMs);
  }

  /** Whether something went out, or will: no status can be chosen any more. */
  get begun(): boolean {
    return this.#response.headersSent || this.#pending !== '';
  }

  push(data: string): Promise<void> | undefined {
    this.#pending += `data: ${data}\n\n`;
    this.#keepAlive.refresh();
    if (this.#pending.length >= FLUSH_LENGTH) this.#flush();
    else if (!this.#scheduled) {
      this.#scheduled = true;
      // Runs once all that has arrived so far is consumed.
      process.nextTick(() => this.#flush());
    }
    return this.#response.writableNeedDrain ? this.#drained() : undefined;
  }

  /** Sends what is pending, `last` where there is one, and the end. */
  end(last?: string): void {
    clearInterval(this.#keepAlive);
    if (this.#response.destroyed) return;
    this.#head();
    this.#response.end(`${this.#pending}${last === undefined ? '' : `data: ${last}\n\n`}data: [DONE]\n\n`);
    this.#pending = '';
  }

  /** Sends nothing more; the response is the caller's again. */
  stop(): void {
    clearInterval(this.#keepAlive);
    this.#pending = '';
  }

  #head(): void {
    if (this.#response.headersSent) return;
    this.#response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
  }

  #flush(): void {
    this.#scheduled = false;
    if (this.#pending === '' || this.#response.destroyed) return;
    this.#head();
    this.#response.write(this.#pending);
    this.#pending = '';
  }

  #comment(): void {
    if (this.#response.writableNeedDrain || this.#response.destroyed) return;
    this.#head();
    this.#response.write(': keep-alive\n\n');
  }

  #drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error) => {
        clearTimeout(timer);
        this.#response.off('drain', onDrain).off('close', onClose);
        if (error) reject(error);
        else resolve();
      };
      const timer = setTimeout(
        () => settle(new SlowReaderError(`the reader took nothing for ${this.#limits.drainTimeoutMs} ms`)),
        this.#limits.drainTimeoutMs,
      );
      const onDrain = () => settle();
      // Gone: the call's own signal says so at the next chunk.
      const onClose = () => settle();
      this.#response.on('drain', onDrain).on('close', onClose);
    });
  }
}
