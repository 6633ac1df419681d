import { AppError } from '../lib/errors.js';
import { AnthropicProvider } from './anthropic.js';
import { BreakerProvider, type BreakerOptions } from './breaker.js';
import { DemoProvider } from './demo.js';
import { OpenAiProvider } from './openai.js';
import type { Provider } from './provider.js';
import type { TransportLimits } from './transport.js';

export interface ProvidersConfig {
  openaiBaseUrl?: string;
  anthropicBaseUrl?: string;
  transport?: Partial<TransportLimits>;
  breaker?: BreakerOptions;
}

export interface ProviderSecrets {
  openaiApiKey?: string;
  anthropicApiKey?: string;
}

/**
 * The providers that the settings name: `demo` always, `openai` with a key or a base URL (a local server may want no key),
 * `anthropic` with a key. Each upstream is behind a breaker of its own.
 */
export function createProviders(config: ProvidersConfig, secrets: ProviderSecrets): Provider[] {
  const providers: Provider[] = [new DemoProvider()];
  if (secrets.openaiApiKey || config.openaiBaseUrl) {
    const openai = new OpenAiProvider({ ...config.transport, baseUrl: config.openaiBaseUrl, apiKey: secrets.openaiApiKey });
    providers.push(new BreakerProvider(openai, config.breaker));
  }
  if (secrets.anthropicApiKey) {
    const anthropic = new AnthropicProvider({
      ...config.transport,
      baseUrl: config.anthropicBaseUrl,
      apiKey: secrets.anthropicApiKey,
    });
    providers.push(new BreakerProvider(anthropic, config.breaker));
  }
  return providers;
}

/** Finds the provider of a model by the first part of its name. */
export class ProviderRegistry {
  readonly #providers: Map<string, Provider>;

  constructor(providers: readonly Provider[]) {
    this.#providers = new Map(providers.map((provider) => [provider.name, provider]));
  }

  names(): string[] {
    return [...this.#providers.keys()];
  }

  /** Full names of the models that providers are known to serve. */
  models(): { id: string; provider: string }[] {
    return [...this.#providers.values()].flatMap((provider) =>
      provider.models().map((model) => ({ id: `${provider.name}/${model}`, provider: provider.name })),
    );
  }

  /**
   * Splits `provider/model` at its first slash. Throws `invalid_request` where there is no such provider, naming those there
   * are.
   */
  resolve(fullName: string): { provider: Provider; model: string } {
    const slash = fullName.indexOf('/');
    const name = slash < 0 ? '' : fullName.slice(0, slash);
    const model = fullName.slice(slash + 1);
    const provider = this.#providers.get(name);
    const known = this.names().join(', ');
    if (slash < 0 || model === '')
      throw new AppError('invalid_request', `model must be provider/model; providers here: ${known}`);
    if (!provider) throw new AppError('invalid_request', `there is no such provider; providers here: ${known}`);
    const served = provider.models();
    if (served.length > 0 && !served.includes(model)) {
      throw new AppError('invalid_request', `provider ${name} has no such model; it has: ${served.join(', ')}`);
    }
    return { provider, model };
  }
}
