import { z } from '@hono/zod-openapi';
import { CreateAgent, NewAgentAnswer } from '../agents/agents.schema.js';
import { ConfigPatch } from '../configs/configs.schema.js';
import { DeploymentAnswer, RevisionAnswer, RevisionDiff } from '../deployments/deployments.schema.js';

const { image, limits, network, isolation: _, ...ofAgent } = ConfigPatch.shape;

export const CreateDeployment = CreateAgent.omit({ isolation: true })
  .extend({ image, limits })
  .openapi('CreateDeployment', { description: 'An agent, and the container of its own that it is to have.' });
export type CreateDeployment = z.infer<typeof CreateDeployment>;

export const NewDeployment = DeploymentAnswer.extend({ agent: NewAgentAnswer }).openapi('NewDeployment');
export type NewDeployment = z.infer<typeof NewDeployment>;

export const UpdateDeployment = z
  .strictObject({
    image,
    limits,
    network,
    agents: z
      .array(z.strictObject({ name: z.string().min(1).max(64), ...ofAgent }))
      .max(200)
      .optional()
      .openapi({ description: 'Merge patches of the configs of agents that are in it.' }),
  })
  .openapi('UpdateDeployment', {
    description:
      'What is named changes, null lets the default show through; image, limits and network are those of a dedicated one.',
  });
export type UpdateDeployment = z.infer<typeof UpdateDeployment>;

export const RolledBack = RevisionAnswer.extend({
  rolled_back_to: z.number().int(),
  stays: RevisionDiff.shape.changes.openapi({
    description:
      "Where it still differs from that revision: what is the operator's (tier, an image that was rolled out or is the usual one), and which " +
      'agents there are. `before` is that revision.',
  }),
}).openapi('DeploymentRolledBack');
export type RolledBack = z.infer<typeof RolledBack>;
