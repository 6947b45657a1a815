// A real OpenID provider for the tests: node idp.mjs PORT. Anybody may log in; `groups` come from the login's name,
// `li+trainers+nlp` being li in two groups. Access tokens for the registry are RFC 9068 JWTs that live a minute.
import { Provider } from 'oidc-provider';

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const resource = 'urn:tagwarden:registry';
const groupsOf = (name) => (name ?? '').split('+').slice(1);

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'swift-submit',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
      response_types: [],
      redirect_uris: [],
    },
    {
      client_id: 'nightly',
      client_secret: 'a-secret-of-the-tests',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
    },
  ],
  scopes: ['openid', 'offline_access'],
  features: {
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    revocation: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: '',
        audience: resource,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 62,
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  extraTokenClaims: (_ctx, token) => ({
    groups: token.kind === 'ClientCredentials' ? ['trainers'] : groupsOf(token.accountId),
  }),
  issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
});
provider.listen(port, '127.0.0.1');
