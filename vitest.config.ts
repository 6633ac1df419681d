import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Bounds of what hangs, not of what is slow: CI shares its machine.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
    // A test that passes only the second time is listed as retried: a defect of the test or of Berth, to be repaired, but no news of the change.
    retry: process.env['CI'] ? 1 : 0,
    globalSetup: ['test/support/global-setup.ts'],
  },
});
