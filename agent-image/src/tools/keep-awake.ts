import type { Leases } from '../leases.js';
import { optionalInteger, ToolError, type Tool } from './tool.js';

const MOST_MINUTES = 60;

/** Lets an agent ask for time in which its container is not put to rest. It holds off no stop, deletion or replacement that somebody wishes. */
export function keepAwakeTool(leases: Leases): Tool {
  return {
    name: 'keep_awake',
    description:
      'Keep your container from being paused for want of use for so many minutes from now, when you expect something soon. ' +
      'Another call replaces the time of the last one.',
    parameters: {
      type: 'object',
      properties: { minutes: { type: 'integer', minimum: 1, maximum: MOST_MINUTES } },
      required: ['minutes'],
    },
    run(args, { agentId }) {
      const minutes = optionalInteger(args, 'minutes', 1, MOST_MINUTES, 0);
      if (minutes === 0) throw new ToolError(`minutes: must be a whole number from 1 to ${MOST_MINUTES}`);
      leases.take(agentId, minutes);
      return Promise.resolve({ ok: true, text: `Your container stays awake for ${minutes} minutes from now.` });
    },
  };
}
