// An agent in JavaScript over `trimode serve`, with nothing but fetch: the model calls tools until it answers.
//
//     trimode serve &
//     node examples/agent.mjs http://127.0.0.1:8000 "How many apples are 5 boxes of 20?"
//
// Each step says how it is decoded: the first must be a call (exact, drafted ahead), later ones may speak. The session's
// name groups the steps in the audit file.

const [url = "http://127.0.0.1:8000", goal = "There are 5 boxes with 20 apples in each box. How many apples?"] =
  process.argv.slice(2);
const { data } = await (await fetch(`${url}/v1/models`)).json();
const model = data[0].id;

const tools = {
  calculator: {
    description: "Multiplies two whole numbers.",
    parameters: {
      type: "object",
      properties: { left: { type: "integer", minimum: 0, maximum: 999 }, right: { type: "integer", minimum: 0, maximum: 999 } },
      required: ["left", "right"],
      additionalProperties: false,
    },
    run: ({ left, right }) => String(left * right),
  },
};

const messages = [{ role: "user", content: goal }];
for (let step = 0; step < 4; step++) {
  const reply = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-session-id": "agent-mjs" },
    body: JSON.stringify({
      model,
      messages,
      max_completion_tokens: 120,
      tools: Object.entries(tools).map(([name, { description, parameters }]) => ({
        type: "function",
        function: { name, description, parameters },
      })),
      tool_choice: step === 0 ? "required" : "none",
      trimode: { step: step === 0 ? "act" : "answer", mode: step === 0 ? "linear_spec" : "ar" },
    }),
  });
  const found = await reply.json();
  if (!reply.ok) throw new Error(`${found.error.param}: ${found.error.message}`);
  const { message } = found.choices[0];
  const done = found.trimode.segments.map(({ kind, modes }) => `${kind} by ${modes.join(" > ")}`).join(", ");
  console.error(`step ${step}: ${done}; ${found.usage.completion_tokens} tokens in ${found.trimode.passes} passes`);
  messages.push(message);
  if (!message.tool_calls) {
    console.log(message.content);
    break;
  }
  for (const call of message.tool_calls) {
    const result = tools[call.function.name].run(JSON.parse(call.function.arguments));
    console.error(`  ${call.function.name}(${call.function.arguments}) = ${result}`);
    messages.push({ role: "tool", tool_call_id: call.id, content: result });
  }
}
