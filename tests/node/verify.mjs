// Verify one ticket with the stock library, as somebody who reads RFC 7519 and nothing of ours would.
// Standard input: {"token", "jwks", "issuer", "audience", "typ", "now"}; answer: {"payload", "header"} or {"refused"}.
import { createLocalJWKSet, jwtVerify } from "jose";

const asked = JSON.parse(await new Response(process.stdin).text());
try {
  const { payload, protectedHeader } = await jwtVerify(asked.token, createLocalJWKSet(asked.jwks), {
    issuer: asked.issuer, audience: asked.audience, typ: asked.typ, currentDate: new Date(asked.now * 1000),
  });
  console.log(JSON.stringify({ payload, header: protectedHeader }));
} catch (error) {
  console.log(JSON.stringify({ refused: error.code }));
}
