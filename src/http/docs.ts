import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Context } from 'hono';
import { headerOf } from './authenticate.js';
import type { Env } from './request-state.js';
import { createRouter, route, type Router } from './router.js';

const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Cache-Control': 'no-cache',
};

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Berth API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/init.js"></script>
</body>
</html>
`;

/** No validator, no query configuration, no stored credentials: the page talks to this Berth and to nobody else. */
const INIT = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#ui',
  deepLinking: true,
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  docExpansion: 'none',
});
`;

/** `/docs`: the API's description as a page, made of files on this machine alone. */
export function docsRoutes(): Router {
  const router = createRouter();
  const { folder, version } = swaggerUi();
  const serve = (path: string, type: string, content: () => Promise<string | Buffer> | string) =>
    router.openapi(
      route({
        method: 'get',
        path,
        access: 'public',
        hide: true,
        summary: 'Browsable documentation',
        responses: { 200: { description: 'A page, or a part of it.' } },
      }),
      (c) => answer(c, type, `"${version}"`, content),
    );
  serve('/docs', 'text/html; charset=utf-8', () => PAGE);
  serve('/docs/init.js', 'text/javascript; charset=utf-8', () => INIT);
  serve('/docs/swagger-ui.css', 'text/css; charset=utf-8', () => readFile(join(folder, 'swagger-ui.css')));
  serve('/docs/swagger-ui-bundle.js', 'text/javascript; charset=utf-8', () => readFile(join(folder, 'swagger-ui-bundle.js')));
  return router;
}

async function answer(c: Context<Env>, type: string, etag: string, content: () => Promise<string | Buffer> | string) {
  const headers = { ...HEADERS, 'Content-Type': type, ETag: etag };
  if (headerOf(c, 'if-none-match') === etag) return new Response(null, { status: 304, headers }) as never;
  const body = await content();
  return new Response(typeof body === 'string' ? body : new Uint8Array(body), { headers }) as never;
}

function swaggerUi(): { folder: string; version: string } {
  const require = createRequire(import.meta.url);
  const manifest = require.resolve('swagger-ui-dist/package.json');
  return { folder: dirname(manifest), version: (require(manifest) as { version: string }).version };
}
