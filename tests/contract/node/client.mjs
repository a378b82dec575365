// @aws-sdk/client-rekognition as npm has it: one command a line on stdin, its answer a line on stdout.
import { createInterface } from "node:readline";
import * as sdk from "@aws-sdk/client-rekognition";

const received = (key, value) => (key === "Bytes" ? Buffer.from(value, "base64") : value);

function sent(key, value) {
  return this[key] instanceof Date ? this[key].getTime() / 1000 : value; // as the wire has it
}

function failure(error) {
  const kind = sdk[error.name];
  return {
    name: error.name,
    message: error.message,
    fault: error.$fault,
    requestId: error.$metadata?.requestId,
    isServiceException: error instanceof sdk.RekognitionServiceException,
    isItsOwnClass: kind !== undefined && error instanceof kind,
  };
}

async function run({ operation, input, config, paginate }) {
  const client = new sdk.RekognitionClient(config ?? {});
  try {
    if (paginate) {
      const pages = [];
      for await (const { $metadata, ...page } of sdk[`paginate${operation}`]({ client, ...paginate }, input)) pages.push(page);
      return { pages };
    }
    const { $metadata, ...output } = await client.send(new sdk[`${operation}Command`](input));
    return { output, metadata: $metadata };
  } catch (error) {
    return { error: failure(error) };
  } finally {
    client.destroy();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(line, received)), sent)}\n`);
}
