/** The share of the memory limit that the JavaScript heap may take; the rest is for buffers, code, stacks, tmpfs and children. */
const HEAP_SHARE = 0.7;

/** The heap limit that Node gets for a memory limit: it does not see the engine's, and would be killed without a word. */
export function heapMib(memoryMib: number): number {
  return Math.max(1, Math.floor(memoryMib * HEAP_SHARE));
}
