import { json } from '../../http/page.js';
import { createRouter, route } from '../../http/router.js';
import type { VaultRotation } from './vault-rotation.js';
import { RotationAnswer } from './vault-rotation.schema.js';

const tags = ['Installation'];

export function vaultRotationRoutes(rotation: VaultRotation) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: '/vault/rotations',
      access: 'admin',
      tags,
      summary: 'Change the master key, while everything goes on',
      responses: { 202: json('It has begun: see `current`.', RotationAnswer) },
    }),
    async (c) => c.json(await rotation.begin(), 202),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/vault/rotations/current',
      access: 'admin',
      tags,
      summary: 'How far the change of the master key is, or how the last one ended',
      responses: { 200: json('The rotation.', RotationAnswer) },
    }),
    async (c) => c.json(await rotation.current(), 200),
  );

  return router;
}
