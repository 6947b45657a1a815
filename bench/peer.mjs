// The peer of bench/tickets.py: oidc-provider, one client, its in-memory store, client credentials only.
// node peer.mjs PORT MODULES [ALG]: the access tokens are JWTs signed with ALG, or opaque as it comes.
import { generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [port, modules, alg] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(createRequire(`${modules}/`).resolve("oidc-provider")).href);
const issuer = `http://127.0.0.1:${port}`;
const { privateKey } =
  alg === "Ed25519" ? generateKeyPairSync("ed25519") : generateKeyPairSync("rsa", { modulusLength: 2048 });
const audience = "urn:bench";
const signed = {
  enabled: true,
  defaultResource: () => audience,
  useGrantedResource: () => true,
  getResourceServerInfo: () => ({ scope: "train", audience, accessTokenFormat: "jwt", jwt: { sign: { alg } } }),
};
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "bench",
      client_secret: "bench-secret-of-the-peer",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      ...(alg ? { id_token_signed_response_alg: alg } : {}),
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig" }] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    ...(alg ? { resourceIndicators: signed } : {}),
  },
});
provider.listen(Number(port), "127.0.0.1");
