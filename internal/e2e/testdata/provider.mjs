// A certified OpenID provider (oidc-provider), with two people, for tests: node provider.mjs FOLDER-OF-NODE-MODULES.
// It prints its address, and ends with its standard input.
import { createServer } from 'node:http';
import { once } from 'node:events';

const { default: Provider } = await import(`${process.argv[2]}/node_modules/oidc-provider/lib/index.js`);
const groups = { ada: ['developers', 'release'], bob: ['guests'] };
const loopback = (id, path, more) => ({ client_id: id, application_type: 'native', redirect_uris: [`http://127.0.0.1${path}`], ...more });

const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients: [
    loopback('waybill', '/login/callback', { client_secret: 's3cret' }),
    loopback('waybill-command', '/callback', {
      token_endpoint_auth_method: 'none', response_types: ['code'],
      grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
    }),
    loopback('https://registry.example', '/job', { token_endpoint_auth_method: 'none' }),
    loopback('another-service', '/job', { token_endpoint_auth_method: 'none' }),
  ],
  pkce: { required: () => true },
  features: { deviceFlow: { enabled: true } },
  claims: { openid: ['sub', 'groups'], email: ['email', 'email_verified'], profile: ['preferred_username'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['for tests only'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: groups[id] ?? [], preferred_username: id, email: `${id}@example.com`, email_verified: true }) }),
});
server.on('request', provider.callback());
process.stdin.resume().on('end', () => process.exit(0));
console.log(issuer);
