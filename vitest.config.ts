import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Bounds of what hangs, not of what is slow: CI shares its machine.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 3,
    // A test that passes only the second time is listed as retried: a defect of the test or of Berth, to be repaired, but no news of the change.
    retry: process.env['CI'] ? 1 : 0,
    // A worker keeps its modules, and one embedded database, from file to file.
    isolate: false,
    setupFiles: ['test/support/after-file.ts'],
    globalSetup: ['test/support/global-setup.ts'],
  },
});
