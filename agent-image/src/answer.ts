import { ModelError } from './errors.js';
import type { ModelDelta } from './llm.js';

/** One call of a function, as the model wrote it. */
export interface ToolCall {
  id: string;
  name: string;
  /** JSON text, or what the model took for it. */
  arguments: string;
}

/** Most that one answer of the model may hold, text and arguments together. */
const MOST_ANSWER_CHARS = 2 * 1024 * 1024;

/** One answer of the model, put together from its deltas. */
export class Answer {
  text = '';
  finish = 'stop';
  calls: ToolCall[] = [];
  readonly #byIndex = new Map<number, ToolCall>();
  #chars = 0;

  take(delta: ModelDelta): void {
    if (delta.finish !== undefined) this.finish = delta.finish;
    if (delta.text !== undefined) {
      this.text += delta.text;
      this.#count(delta.text);
    }
    for (const { index, id, name, arguments: more } of delta.calls ?? []) {
      const call = this.#byIndex.get(index) ?? { id: '', name: '', arguments: '' };
      this.#byIndex.set(index, call);
      call.id ||= id ?? '';
      call.name ||= name ?? '';
      call.arguments += more ?? '';
      this.#count(more ?? '');
    }
  }

  /** Ends the answer: its calls in order, each with an id of its own. */
  close(step: number): this {
    const seen = new Set<string>();
    this.calls = [...this.#byIndex]
      .sort(([a], [b]) => a - b)
      .map(([index, call]) => {
        if (call.id === '' || seen.has(call.id)) call.id = `call_${step}_${index}`;
        seen.add(call.id);
        return call;
      });
    return this;
  }

  #count(text: string): void {
    this.#chars += text.length;
    if (this.#chars > MOST_ANSWER_CHARS) throw new ModelError('The answer of the model is too long.', { code: 'too_long' });
  }
}
