import type { GatewayEvent, TurnUsage } from '../../gateway/stream.js';

/** This much of a reply is kept for the journal and for an answer in one piece; who reads the stream gets all of it. */
const REPLY_LIMIT_CHARS = 1_000_000;

/** What a turn has said, put together from its events. */
export class Reply {
  #parts: { seq: number; text: string }[] = [];
  #chars = 0;
  #isCut = false;
  #usage: TurnUsage | undefined;
  #finishReason = 'stop';
  /** Tools that were called, in order. */
  readonly tools: string[] = [];

  /** What was said so far, up to a limit. */
  get text(): string {
    return this.#parts.map(({ text }) => text).join('');
  }

  /** As the gateway gave it; undefined where it has not. */
  get usage(): TurnUsage | undefined {
    return this.#usage;
  }

  /** `length` also where the reply was too long to be kept whole. */
  get finishReason(): string {
    return this.#isCut ? 'length' : this.#finishReason;
  }

  note(event: GatewayEvent): void {
    if (event.type === 'tool_call') this.tools.push(event.call.name);
    if (event.type === 'restarted') this.#dropAfter(event.restart.void_after);
    if (event.type !== 'chunk') return;
    const { choices, usage } = event.chunk;
    const choice = choices[0];
    if (choice?.delta.content) this.#keep(event.seq ?? 0, choice.delta.content);
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
    if (usage) this.#usage = usage;
  }

  #keep(seq: number, text: string): void {
    const room = REPLY_LIMIT_CHARS - this.#chars;
    if (text.length > room) this.#isCut = true;
    if (room <= 0) return;
    const kept = text.length > room ? text.slice(0, room) : text;
    this.#parts.push({ seq, text: kept });
    this.#chars += kept.length;
  }

  #dropAfter(seq: number): void {
    const kept = this.#parts.findLastIndex((part) => part.seq <= seq) + 1;
    for (const { text } of this.#parts.splice(kept)) this.#chars -= text.length;
  }
}
