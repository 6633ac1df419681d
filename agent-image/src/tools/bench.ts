import type { Agent } from '../agent.js';
import type { ToolCall } from '../answer.js';
import type { TurnOutput } from '../turn.js';
import { ToolError, middleOut, type Tool, type ToolContext, type ToolResult } from './tool.js';

/** Calls run side by side at most; each may be a shell, and the number of processes is bounded. */
const AT_ONCE = 8;
const MOST_CALLS = 64;

/** An agent's tools in one turn. Whatever goes wrong with a call becomes its result, for the model to read. */
export class ToolBench {
  readonly #tools: Map<string, Tool>;
  readonly #context: ToolContext;

  constructor(tools: readonly Tool[], agent: Agent, signal: AbortSignal) {
    this.#tools = new Map(tools.map((tool) => [tool.name, tool]));
    this.#context = { workspace: agent.workspace, agentId: agent.id, variables: () => agent.variables, signal };
  }

  /** Runs the calls side by side; their results in the order of the calls. Never rejects; settles only when
   * nothing of them is left running. */
  async run(calls: readonly ToolCall[], output: TurnOutput): Promise<string[]> {
    const results = new Array<string>(calls.length);
    let next = 0;
    const worker = async () => {
      while (next < calls.length && !this.#context.signal.aborted) {
        const i = next++;
        results[i] = await this.#report(calls[i] as ToolCall, i, output);
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, calls.length) }, worker));
    // Every call needs a result, or no model takes the conversation again.
    return Array.from(results, (text) => text ?? 'Error: The turn was stopped before this ran.');
  }

  async #report(call: ToolCall, position: number, output: TurnOutput): Promise<string> {
    const started = performance.now();
    await output.toolCall(call);
    const { ok, text } = position < MOST_CALLS ? await this.#run(call) : failure(`At most ${MOST_CALLS} calls at once.`);
    const short = middleOut(text);
    await output.toolResult({
      id: call.id,
      name: call.name,
      ok,
      text: short,
      durationMs: Math.round(performance.now() - started),
    });
    return short;
  }

  async #run(call: ToolCall): Promise<ToolResult> {
    const tool = this.#tools.get(call.name);
    if (!tool) return failure(`There is no tool of that name. The tools are: ${[...this.#tools.keys()].join(', ') || 'none'}.`);
    const args = parseArguments(call.arguments);
    if (!args) return failure('The arguments are not a JSON object.');
    try {
      return await tool.run(args, this.#context);
    } catch (error) {
      if (error instanceof ToolError) return failure(error.message);
      return failure(`The tool failed: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`);
    }
  }
}

function failure(message: string): ToolResult {
  return { ok: false, text: `Error: ${message}` };
}

function parseArguments(json: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(json.trim() === '' ? '{}' : json);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
