// OpenAI's client for JavaScript: text, streams, tools, typed formats, errors.
import OpenAI from "openai";
import { run, ASK, MODEL, URL } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0 });
const parameters = {
  type: "object",
  properties: { expression: { type: "string", maxLength: 12 } },
  required: ["expression"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "calculator", parameters } }];
const given = { model: MODEL, messages: ASK, max_completion_tokens: 80 };

await run({
  async chat(assert) {
    const found = await client.chat.completions.create(given);
    assert(found.choices[0].message.content && found.usage.completion_tokens > 0);
  },
  async "stream of text"(assert) {
    const whole = await client.chat.completions.create(given);
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...given, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert(text === whole.choices[0].message.content);
  },
  async "stream of a call"(assert) {
    const runner = client.chat.completions.stream({ ...given, tools, tool_choice: "required" });
    const message = await runner.finalMessage();
    assert(JSON.parse(message.tool_calls[0].function.arguments).expression !== undefined);
  },
  async "typed format"(assert) {
    const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
    const response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
    const found = await client.chat.completions.parse({ ...given, response_format });
    assert(typeof found.choices[0].message.parsed.ok === "boolean");
  },
  async "typed errors"(assert) {
    const error = await client.chat.completions.create({ ...given, frequency_penalty: 1 }).catch((one) => one);
    assert(error instanceof OpenAI.BadRequestError && error.param === "frequency_penalty");
  },
  async "stream left early"(assert) {
    const stream = await client.chat.completions.create({ ...given, stream: true });
    for await (const _ of stream) break;
    assert((await client.models.list()).data.length === 1);
  },
});
