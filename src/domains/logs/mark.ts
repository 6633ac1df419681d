/** A mark as it is kept: the time of the last line, and how many lines have that very time. */
export type MarkValue = readonly [time: string, count: number];

/** How far the lines of an instance were read: a second look at them goes on after the last one seen, whatever the times say. */
export class Mark {
  #time: string;
  #count: number;

  constructor([time, count]: MarkValue = ['', 0]) {
    this.#time = time;
    this.#count = count;
  }

  get value(): MarkValue {
    return [this.#time, this.#count];
  }

  note(time: string): void {
    if (time === this.#time) this.#count += 1;
    else {
      this.#time = time;
      this.#count = 1;
    }
  }
}

/**
 * Says of the lines of one more look at an instance, each in turn, whether it is new. `window`: how many lines from the end the look begins. Within
 * a look lines come as they were written, so nothing after the first new one is old, also where a clock was set back.
 */
export class Resumption {
  readonly #time: string;
  readonly #count: number;
  readonly #window: number;
  #seen = 0;
  #again = 0;
  #isPast = false;

  constructor([time, count]: MarkValue, window: number) {
    this.#time = time;
    this.#count = count;
    this.#window = window;
    this.#isPast = time === '';
  }

  /** `missed`: it is new, and the last line read before is not there any more, so that some between the two may be lost. */
  see(time: string): 'old' | 'new' | 'missed' {
    if (this.#isPast) return 'new';
    this.#seen += 1;
    if (time === this.#time && this.#again < this.#count) {
      this.#again += 1;
      this.#isPast = this.#again === this.#count;
      return 'old';
    }
    if (time < this.#time && this.#seen <= this.#window) return 'old';
    this.#isPast = true;
    return this.#again > 0 ? 'new' : 'missed';
  }
}
