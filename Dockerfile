# Berth itself (the image that agents run in is agent-image/). Build: docker build -t berth .
ARG NODE_IMAGE=node:24-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /berth
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts scripts
COPY migrations migrations
COPY agent-image/src agent-image/src
COPY src src
# The template of the embedded database is made here too, so that a first start takes a second and not seven.
RUN npm run build && npm prune --omit=dev --no-audit --no-fund

FROM ${NODE_IMAGE}
WORKDIR /berth
COPY --from=build /berth/package.json ./
COPY --from=build /berth/node_modules node_modules
COPY --from=build /berth/dist dist
COPY scripts/berth.mjs scripts/berth.mjs
COPY scripts/audit scripts/audit
# Without a name: neither root nor anybody. The two folders are what it writes to; see compose.yaml for what they must be.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/berth/data /var/lib/berth/link
USER 10001:10001
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 DATA_DIR=/var/lib/berth/data LINK_DIR=/var/lib/berth/link
EXPOSE 8080
# Not npm, which would stand between the engine's signals and Berth.
CMD ["node", "dist/berth.mjs"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
