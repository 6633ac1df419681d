import type { ServerResponse } from 'node:http';
import type { EventSink, Response } from './sse.js';

const KEEP_ALIVE_MS = 30_000;
const ENDED = Symbol('ended');
/** The event of that number, with its number; `ENDED` after the last, undefined where it is still to come. */
type TextFrom = (seq: number) => string | typeof ENDED | undefined;

/** What one turn may hold that Berth has not written down yet. Berth says so every 128 KiB or sooner. */
const MOST_HELD_CHARS = 1024 * 1024;

/**
 * The events of a kept turn, numbered from 1, from the first that Berth has not written down. Readers come and go, each at its own pace, and none
 * holds the turn up; only what nobody writes down does, once it is too much.
 */
export class TurnLog implements EventSink {
  readonly #readers = new Set<Reader>();
  readonly #mostChars: number;
  /** Numbers `first`, `first + 1`, … */
  #entries: string[] = [];
  #first = 1;
  #chars = 0;
  #ended = false;
  #unbounded = false;
  #room: { promise: Promise<void>; free: () => void } | undefined;
  /** Called when it has ended and Berth has all of it. */
  onDone: (() => void) | undefined;

  constructor(mostChars = MOST_HELD_CHARS) {
    this.#mostChars = mostChars;
  }

  /** Number of the latest event. */
  get last(): number {
    return this.#first + this.#entries.length - 1;
  }

  get chars(): number {
    return this.#chars;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Whether it still has all that came after that event. */
  holdsAfter(seq: number): boolean {
    return seq >= this.#first - 1 && seq <= this.last;
  }

  open(): void {}

  send(data: string, event?: string): Promise<void> | undefined {
    const head = event === undefined ? '' : `event: ${event}\n`;
    const text = `id: ${this.last + 1}\n${head}data: ${data}\n\n`;
    this.#entries.push(text);
    this.#chars += text.length;
    for (const reader of this.#readers) reader.pump();
    return this.#waitForRoom();
  }

  end(): void {
    this.#ended = true;
    for (const reader of this.#readers) reader.pump();
    this.#doneIfWritten();
  }

  /** Berth has written down everything up to that event. */
  written(seq: number): void {
    const gone = this.#entries.splice(0, Math.min(seq, this.last) - this.#first + 1);
    this.#first += gone.length;
    for (const text of gone) this.#chars -= text.length;
    for (const reader of this.#readers) reader.dropIfBefore(this.#first);
    if (this.#chars < this.#mostChars) this.#room?.free();
    this.#doneIfWritten();
  }

  /** Waits for nobody any more: the turn is to end. */
  release(): void {
    this.#unbounded = true;
    this.#room?.free();
  }

  /** Answers with all events after that one, those to come too, until the last. To be asked for only where it holds them. */
  follow(response: Response, after: number): void {
    const reader = new Reader(
      response,
      after + 1,
      (seq) => this.#entries[seq - this.#first] ?? (this.#ended ? ENDED : undefined),
    );
    this.#readers.add(reader);
    response.once('close', () => {
      reader.close();
      this.#readers.delete(reader);
    });
    reader.begin();
  }

  #waitForRoom(): Promise<void> | undefined {
    if (this.#unbounded || this.#chars < this.#mostChars) return undefined;
    if (!this.#room) {
      let free!: () => void;
      const promise = new Promise<void>((resolve) => (free = resolve)).finally(() => (this.#room = undefined));
      this.#room = { promise, free };
    }
    return this.#room.promise;
  }

  #doneIfWritten(): void {
    if (this.#ended && this.#entries.length === 0) this.onDone?.();
  }
}

/** One who reads a log over a response, as fast as it takes it. */
class Reader {
  readonly #response: Response;
  readonly #textFrom: TextFrom;
  #next: number;
  #blocked = false;
  #keepAlive: NodeJS.Timeout | undefined;

  constructor(response: Response, next: number, textFrom: TextFrom) {
    this.#response = response;
    this.#next = next;
    this.#textFrom = textFrom;
  }

  begin(): void {
    this.#response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
    this.#response.on('drain', () => {
      this.#blocked = false;
      this.pump();
    });
    this.#keepAlive = setInterval(() => this.#blocked || this.#write(': working\n\n'), KEEP_ALIVE_MS);
    this.pump();
  }

  pump(): void {
    while (!this.#blocked && !this.#response.writableEnded) {
      const text = this.#textFrom(this.#next);
      if (text === undefined) return;
      if (text === ENDED) return void this.#response.end('data: [DONE]\n\n');
      this.#next += 1;
      this.#write(text);
    }
  }

  /** What it has not read is gone: it must look at what Berth has written down, and come again. */
  dropIfBefore(first: number): void {
    if (this.#next < first) this.#response.destroy();
  }

  close(): void {
    this.#blocked = true;
    clearInterval(this.#keepAlive);
  }

  #write(text: string): void {
    this.#blocked = !(this.#response as ServerResponse).write(text);
  }
}
