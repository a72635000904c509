// An OpenID Connect provider for tests: its settings as JSON on standard input, "ready" on standard output once it answers.
// Whoever types a name at its sign-in is that person; `people` says which claims each has.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const packages = process.argv[2];
const { default: Provider } = await import(pathToFileURL(`${packages}/node_modules/oidc-provider/lib/index.js`));
const { issuer, port, jwks, clients, people, audience } = JSON.parse(readFileSync(0, 'utf8'));

const provider = new Provider(issuer, {
  jwks,
  clients,
  claims: { openid: ['sub'], profile: ['preferred_username', 'roles', 'groups'] },
  // Claims of a scope come from userinfo, as they do from many providers, except for those in `inIdToken`.
  findAccount: async (_, name) => ({
    accountId: name,
    claims: async () => ({ sub: name, preferred_username: name, ...people[name] }),
  }),
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: async () => ({ scope: 'api', audience, accessTokenFormat: 'jwt' }),
    },
  },
  extraTokenClaims: async (_, token) => people[token.accountId ?? token.clientId],
  cookies: { keys: ['only for tests'] },
});
provider.listen(port, '127.0.0.1', () => console.log('ready'));
