// Asks the server whose address is the first argument, and prints what it gave as JSON.
import OpenAI from "openai";
import { OpenAIEmbeddingFunction } from "@chroma-core/openai";

const [, , apiBase, ...texts] = process.argv;
const server = { apiBase, apiKey: "none" };
const made = (others) => new OpenAIEmbeddingFunction({ modelName: "builtin", ...server, ...others });
const client = new OpenAI({ baseURL: apiBase, apiKey: "none", maxRetries: 0 });

let refused;
try {
  await made({ modelName: "other" }).generate(texts);
} catch (error) {
  refused = { status: error.status, code: error.code, param: error.param };
}
console.log(
  JSON.stringify({
    documents: await made().generate(texts),
    queries: await made({ modelName: "builtin:query" }).generate(texts),
    short: await made({ dimensions: 64 }).generate(texts),
    models: (await client.models.list()).data.map((model) => model.id),
    model: (await client.models.retrieve("builtin")).id,
    refused,
  }),
);
