import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 3,
    // A worker keeps its modules, and one embedded database, from file to file: loading them anew for each took a third of the time.
    isolate: false,
    setupFiles: ['test/support/after-file.ts'],
    globalSetup: ['test/support/global-setup.ts'],
  },
});
