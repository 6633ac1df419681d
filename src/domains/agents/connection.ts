import type { AgentAnswer, ConnectAnswer } from './agents.schema.js';

/** What an OpenAI client needs to talk to the agent, as given to it. */
export function connectionOf(origin: string, agent: Pick<AgentAnswer, 'name' | 'user_id'>): ConnectAnswer {
  const model = `berth/${agent.name}`;
  const base = `${origin}/v1`;
  const agentUrl = `${origin}/api/v1/users/${agent.user_id}/agents/${agent.name}`;
  const body = JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello' }] });
  return {
    base_url: base,
    model,
    auth: {
      type: 'bearer',
      header: 'Authorization: Bearer <key>',
      how: "Use the agent's own key (shown when it was made; rotate-key makes another) or the user's.",
    },
    endpoints: {
      chat_completions: `${base}/chat/completions`,
      models: `${base}/models`,
      chat: `${agentUrl}/chat`,
      chat_stream: `${agentUrl}/chat/stream`,
    },
    curl: `curl ${base}/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d '${body}'`,
  };
}
