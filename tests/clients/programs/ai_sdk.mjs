// Vercel's AI SDK with the server as an OpenAI-compatible provider.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, generateObject, streamText, tool } from "ai";
import { z } from "zod";
import { run, ASK, MODEL, URL } from "./checks.mjs";

const provider = createOpenAICompatible({
  name: "trimode", baseURL: `${URL}/v1`, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true,
});
const given = { model: provider(MODEL), messages: ASK, maxOutputTokens: 80, maxRetries: 0 };
const tools = {
  calculator: tool({ description: "Evaluates.", inputSchema: z.object({ expression: z.string().max(12) }) }),
};

await run({
  async "generateText"(assert) {
    const found = await generateText(given);
    assert(found.text && found.usage.outputTokens > 0);
  },
  async "streamText"(assert) {
    const whole = await generateText(given);
    let text = "";
    for await (const piece of streamText(given).textStream) text += piece;
    assert(text === whole.text);
  },
  async "a call by streamText"(assert) {
    const found = streamText({ ...given, tools, toolChoice: "required" });
    const calls = await found.toolCalls;
    assert(calls[0].toolName === "calculator" && "expression" in calls[0].input);
  },
  async "generateObject"(assert) {
    const found = await generateObject({ ...given, schema: z.object({ ok: z.boolean() }) });
    assert(typeof found.object.ok === "boolean");
  },
  async "reasoning"(assert) {
    const found = await generateText({ ...given, providerOptions: { trimode: { reasoningEffort: "low" } } });
    assert(found.reasoningText);
  },
});
