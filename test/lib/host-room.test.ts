import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import { hostRoom } from '../../src/lib/host-room.js';

test('the host is measured, and a folder that is not there says nothing of its disk', async () => {
  const room = await hostRoom({ memoryMib: undefined, folders: ['/nowhere/at/all', tmpdir()] })();
  expect(room.memoryMib).toBeGreaterThan(room.availableMib);
  expect(room.availableMib).toBeGreaterThan(0);
  expect(room.diskFreeMib).toBeGreaterThan(0);
  const blind = await hostRoom({ memoryMib: 123, folders: ['/nowhere/at/all'] })();
  expect(blind).toMatchObject({ memoryMib: 123, diskFreeMib: undefined });
});
