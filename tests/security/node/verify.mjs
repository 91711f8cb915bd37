// Reads cases as JSON from the standard input and says of each whether the reference library takes it.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const cases = JSON.parse(readFileSync(0, "utf8"));
const taken = cases.map(({ secret, body, headers }) => {
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64").toString("utf8"), headers);
    return true;
  } catch (error) {
    return String(error.message);
  }
});
process.stdout.write(JSON.stringify(taken));
