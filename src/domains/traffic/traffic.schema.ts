import { z } from '@hono/zod-openapi';
import { PageQuery, pageAnswer } from '../../http/page.js';
import { NetworkPolicy } from '../deployments/deployments.schema.js';

const Amounts = {
  connections: z.number().int(),
  refused: z.number().int().openapi({ description: 'Refused by the policy, or failed.' }),
  bytes_up: z.number().int(),
  bytes_down: z.number().int(),
};

export const NetworkQuery = PageQuery.extend({
  since: z.iso
    .date('must be a day such as 2030-01-31')
    .optional()
    .openapi({ description: 'The first day (UTC) that counts; 30 days ago unless told. Counts are kept for 90 days.' }),
});

export const HostTraffic = z
  .object({
    host: z.string().openapi({ description: '`*`, with port 0, for what was too much for a day to be counted by host.' }),
    port: z.number().int(),
    ...Amounts,
    last_at: z.string(),
  })
  .openapi('HostTraffic');

export const NetworkAnswer = pageAnswer(HostTraffic)
  .extend({
    agent: z.string(),
    network: NetworkPolicy.openapi({ description: 'The policy in force, of the agent and of all that share its container.' }),
    shared_with: z.array(z.string()).openapi({ description: 'Agents of the same container: their traffic is in these counts.' }),
    since: z.string(),
    totals: z.object(Amounts),
  })
  .openapi('AgentNetwork');
export type NetworkAnswer = z.infer<typeof NetworkAnswer>;
